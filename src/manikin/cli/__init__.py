"""The `manikin` command. Heavy imports are lazy, so that `--help` answers at once."""
