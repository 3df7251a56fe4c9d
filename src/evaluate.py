"""`python -m src.evaluate`: metrics of SAEs that are there."""

from masked_sae.commands.evaluate import main

if __name__ == "__main__":
    main()
