"""From labelled responses to a scorer bundle: data, features, fit, evaluation, card."""
