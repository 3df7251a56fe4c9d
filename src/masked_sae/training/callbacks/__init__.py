"""What happens beside the training step: metrics, progress, checkpoints, orderly stops."""
