"""onnxmx: define, train, compress and serve models in one graph format."""
