"""The command line: `srr-guard demo | score | train | evaluate`."""

from srr_guard.cli.app import app, main

__all__ = ["app", "main"]
