"""Grading: a student's code in a process that knows no answer, one submission or a whole class."""
