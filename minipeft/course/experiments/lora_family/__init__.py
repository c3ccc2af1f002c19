"""Experiments on LoRA's family."""
