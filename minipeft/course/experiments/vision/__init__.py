"""Experiments with vision transformers."""
