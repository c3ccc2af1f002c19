"""Experiments on examples in the context: their order, their biases, calibration, their labels."""
