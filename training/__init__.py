"""The runs: one script per run, readable from top to bottom, and what they share."""
