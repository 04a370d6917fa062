"""Trains soft prompts for local models (DRO, arXiv 2401.18018)."""
