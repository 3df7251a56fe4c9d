"""`python -m src.latents`: pages of a run's latents and of what they absorb."""

from masked_sae.commands.latents import main

if __name__ == "__main__":
    main()
