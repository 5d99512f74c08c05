"""`python -m manikin` is the `manikin` command."""

from manikin.cli.main import main

main()
