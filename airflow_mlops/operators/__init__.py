"""Operators: one file per tool, and what they share in ``base``."""
