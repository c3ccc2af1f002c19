"""Prompt tuning's experiments."""
