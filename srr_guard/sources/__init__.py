"""Where candidates come from: models, chains, functions."""
