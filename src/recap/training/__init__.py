"""Training: steps, balancing, optimizers, checkpoints, and exact resumption."""
