"""Experiments on training a subset."""
