"""Operators without a gradient: those that read no floats, draw random numbers, or are made of sequences."""

from __future__ import annotations

from onnxmx.trainer.autodiff.registry import refuse_gradient, zero_gradient

# Random numbers, whose place in the graph a float may only shape or bias.
zero_gradient("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
# Nothing of theirs is computed from floats.
zero_gradient("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix")
zero_gradient("ImageDecoder", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer")
# Whole numbers and truth values.
zero_gradient("NonMaxSuppression", "NonZero", "OptionalHasElement", "SequenceEmpty", "SequenceLength")

refuse_gradient(
    "SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence",
    "ConcatFromSequence", why="a sequence has no gradient; use Split and Concat",
)  # fmt: skip
refuse_gradient("GroupNormalization", why="it is deprecated at opset 20; the GroupNorm layer is made of others")
refuse_gradient("Scatter", "Upsample", why="it is deprecated; a file that is loaded gets its successor")
