"""`python -m src.status`: how the runs of a sweep are doing, what their jobs print, and how to end some."""

from masked_sae.commands.status import main

if __name__ == "__main__":
    main()
