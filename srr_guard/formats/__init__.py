"""Message formats of providers, to what srr_guard scores and back."""
