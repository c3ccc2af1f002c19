"""The text that models are pretrained on, and how they are."""
