"""What is printed while one waits: progress."""
