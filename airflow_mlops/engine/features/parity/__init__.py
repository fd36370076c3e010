"""Whether training and serving see the same values."""
