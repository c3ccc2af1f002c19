"""Experiments on the transformer in its world."""
