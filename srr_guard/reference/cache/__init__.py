"""Caches of earlier passes: prompts, partial answers, recorded states."""
