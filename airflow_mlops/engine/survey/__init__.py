"""A first look at data that nobody has described yet: how it is cut by time, and what its columns are good for."""
