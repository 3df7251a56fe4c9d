"""`python -m src.pretrain`: trains the embedded LM on the running Python's standard library."""

from masked_sae.commands.pretrain import main

if __name__ == "__main__":
    main()
