"""What the course shows: comparisons, pictures, notebooks, and experiments over seeds."""
