"""The texts that metrics are measured on."""
