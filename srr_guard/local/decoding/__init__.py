"""The decode loop: rows of several prompts in one batch, each with its own random numbers."""
