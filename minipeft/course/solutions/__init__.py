"""What the student types in the lectures, a file for each; the lectures show it folded."""
