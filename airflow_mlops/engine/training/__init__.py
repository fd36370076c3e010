"""Training in a fresh child process: the spec goes in as JSON, a SavedModel and its record come out."""
