"""Experiments on quantization."""
