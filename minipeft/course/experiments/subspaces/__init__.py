"""Experiments on intrinsic dimension."""
