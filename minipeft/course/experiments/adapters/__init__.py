"""Adapters' experiments."""
