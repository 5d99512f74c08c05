"""What a hospital runs: its cohort, its vault, and the Flower ClientApp that relays to it."""
