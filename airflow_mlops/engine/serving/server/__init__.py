"""A model server that speaks TensorFlow Serving's API, for development and CI.

The C++ loader and executor are TensorFlow's own; what is around them (versions, labels, reloads, errors) follows
``tensorflow_model_server`` down to its words, so that what works here works there. Not in here yet: Classify,
Regress and MultiInference, batching, warm-up files, metrics, TLS.
"""
