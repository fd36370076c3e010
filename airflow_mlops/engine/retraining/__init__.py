"""Whether a model is trained again: who or what asks for it, what is decided, and what that saved."""
