"""Models by name, checkpoints and predictions."""
