"""Minimal messages of TensorFlow Serving's API; see README.md."""
