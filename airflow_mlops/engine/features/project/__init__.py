"""A Feast project: where it is, its settings and definitions, its store opened, what it raises in words."""
