"""What a model is: graphs, layers, initializers, the Model."""
