"""What the tests share: small models and texts, made sweeps, a recorder of W&B."""
