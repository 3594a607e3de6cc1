"""What to do where the installed ONNX Runtime lacks a profile's provider; apart, so that flags can name it cheaply."""

from typing import Literal, TypeAlias

OnMissing: TypeAlias = Literal["error", "emulate", "cpu"]
"""Fail, have the CPU emulate the accelerator, or use the CPU without any emulation."""
