"""How a model learns: gradients, losses, optimizers, the step graph, the loop."""
