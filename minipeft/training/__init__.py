"""Training: the loop, its steps, optimizers, batches, evaluation, going on after a stop."""
