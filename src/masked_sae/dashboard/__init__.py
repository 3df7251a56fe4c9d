"""A sweep as a saved W&B workspace."""
