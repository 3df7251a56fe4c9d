"""All that knows W&B."""
