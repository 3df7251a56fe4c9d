"""`python -m src.dashboard`: a saved W&B workspace of a sweep."""

from masked_sae.commands.dashboard import main

if __name__ == "__main__":
    main()
