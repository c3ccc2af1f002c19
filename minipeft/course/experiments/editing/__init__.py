"""Experiments on weights as vectors and on new facts."""
