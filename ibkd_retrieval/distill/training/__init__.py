"""The training loop: stages, steps, optimiser, checkpoints, log, several processes."""
