"""What is printed: progress while one waits, and tables."""
