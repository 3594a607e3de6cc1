"""INT8 graphs for accelerators: quantized with powers of two, with an exact integer reference beside them."""

from fieldtune_offline.quantization.quantizing import Quantized, quantize

__all__ = ["Quantized", "quantize"]
