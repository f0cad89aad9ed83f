"""Who runs a step: stock ONNX Runtime."""

from onnxmx.trainer.engine.ort import OrtEngine

__all__ = ["OrtEngine"]
