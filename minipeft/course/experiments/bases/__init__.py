"""Probes of the shipped bases."""
