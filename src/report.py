"""`python -m src.report`: what a sweep showed, from its run folders alone."""

from masked_sae.commands.report import main

if __name__ == "__main__":
    main()
