"""Metrics of a trained SAE, one file for each family; plain functions on tensors where they can be."""
