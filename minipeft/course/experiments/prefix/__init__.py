"""Prefix tuning's experiments."""
