"""The embedded runtime: one machine, real Flower apps, vaults in worker processes."""
