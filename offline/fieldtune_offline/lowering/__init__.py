"""Lowering: from a program in core ATen operators to standard ONNX operators of opset 18."""

from fieldtune_offline.lowering.builder import PACKED, GraphBuilder, Tensor
from fieldtune_offline.lowering.program import Input, LoweredProgram, lower_program

__all__ = ["PACKED", "GraphBuilder", "Input", "LoweredProgram", "Tensor", "lower_program"]
