"""Functions of a user's own file, called in a process of their own."""
