"""P-tuning's experiments."""
