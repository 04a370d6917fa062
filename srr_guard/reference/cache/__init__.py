"""What is kept of earlier passes: prompts, partial answers, recorded states."""
