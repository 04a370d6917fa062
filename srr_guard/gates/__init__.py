"""Decides from the prompt alone how a request is sampled."""
