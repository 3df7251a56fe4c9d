"""`python -m src.publish`: a run or a sweep on the Hugging Face hub."""

from masked_sae.commands.publish import main

if __name__ == "__main__":
    main()
