"""What the coordinator runs: the plan, the rounds, aggregation, and the release."""
