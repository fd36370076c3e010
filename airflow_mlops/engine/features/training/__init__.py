"""Training data as it would have been known."""
