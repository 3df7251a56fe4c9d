"""The commands: each reads its settings, refuses what it can at once, and calls the library."""
