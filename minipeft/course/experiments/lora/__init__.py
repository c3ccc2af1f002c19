"""LoRA's experiments."""
