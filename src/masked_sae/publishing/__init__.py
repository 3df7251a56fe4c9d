"""Runs and sweeps put on the Hugging Face hub, or into a folder, as SAELens and this project load them."""
