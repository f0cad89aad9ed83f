"""What onnxmx adds to a file, by key: all of it text, and JSON where it is more than a word."""

from __future__ import annotations

SOURCE = "onnxmx.source"
"""Of a node: the user's line that asked for it."""

CHECKPOINT = "onnxmx.checkpoint"
"""Of a node: the region it belongs to, all of which a backward pass computes again instead of keeping."""

AS_INFERRED = "onnxmx.as_inferred"
"""Of a node that computes something else in training: the model holds its gradient as it infers."""

TRACKED = "onnxmx.tracked"
"""Of a QuantizeLinear: training moves its scale with what it sees, and keeps this share of it a step, a number."""

TRAINABLE = "onnxmx.trainable"
"""The names of the parameters that training changes, a JSON list: the only such list."""

LOSS = "onnxmx.loss"
"""The name of the loss that the model was trained with."""

PREPROCESSING = "onnxmx.preprocessing"
"""How raw values are prepared, a JSON object: `Preprocessing.to_dict`."""

AS_IT_IS = '{"scale": 1.0, "shift": 0.0}'
"""The preprocessing that changes nothing."""

CLASSES = "onnxmx.classes"
"""The names of the classes in the order of the outputs, a JSON list."""

PROVENANCE = "onnxmx.provenance"
"""What the model was made from, a JSON object: data and its digest, seed, epochs, steps."""

QUANTIZATION = "onnxmx.quantization"
"""How a quantized model was made, a JSON object."""

AWARE = "onnxmx.quantization_aware"
"""The same of a model in quantization-aware training, whose weights are still floats."""
