"""The training loop, its checkpoints, and where it runs."""
