"""What a model is served: values read online, and how old they are."""
