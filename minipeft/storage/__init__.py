"""What is read from files and written to them: checkpoints, tokenizers, public data sets."""
