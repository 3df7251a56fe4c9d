"""A run's life on disk: identity, folder, state, checkpoints."""
