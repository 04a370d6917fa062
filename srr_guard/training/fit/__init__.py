"""From features to a trained head."""
