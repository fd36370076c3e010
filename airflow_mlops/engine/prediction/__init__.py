"""Predictions of many rows at once: a sealed partition of them for a sealed partition, or for rows of one's own."""
