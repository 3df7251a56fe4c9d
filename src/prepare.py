"""`python -m src.prepare`: has what a run needs before it is trained, and tells where its LM can be read."""

from masked_sae.commands.prepare import main

if __name__ == "__main__":
    main()
