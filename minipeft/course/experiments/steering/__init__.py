"""Steering: which heads tell who is answering, and what leaning on them does."""
