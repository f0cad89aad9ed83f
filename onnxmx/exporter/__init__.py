"""What a trained model becomes: smaller and faster, with a report of what that cost."""

from __future__ import annotations

from onnxmx.exporter.aware import quantize_aware
from onnxmx.exporter.quantization import quantize, report_path
from onnxmx.exporter.report import FloatNode, Report

__all__ = ["FloatNode", "Report", "quantize", "quantize_aware", "report_path"]
