"""A synthetic LM whose features are known: its recipe, weights, text and truth."""
