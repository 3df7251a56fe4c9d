"""What single latents are: pages of them, from a run's folder."""
