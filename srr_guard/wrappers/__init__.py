"""The front doors: a runnable, a chat model, a decorator."""
