"""`python -m src.train`: trains one masked SAE; with `-m`, a sweep of them."""

from masked_sae.commands.train import main

if __name__ == "__main__":
    main()
