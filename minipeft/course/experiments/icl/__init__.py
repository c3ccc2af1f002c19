"""In-context learning beside fine-tuning: their experiments."""
