"""Decides which candidate is passed on; knows no runnables and no torch."""

from srr_guard.core.guard import Guard

__all__ = ["Guard"]
