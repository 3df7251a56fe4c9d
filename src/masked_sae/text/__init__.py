"""Text in, tokens on disk out."""
