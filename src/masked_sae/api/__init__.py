"""What `masked_sae` offers to programs and notebooks: docs/api.md."""
