"""INT8 graphs for accelerators: quantized with powers of two, with an exact integer reference beside them."""

from fieldtune_offline.accelerators.int8.choice import choose_quantizer
from fieldtune_offline.accelerators.int8.quantizing import Quantize, Quantized, planned_table, quantize

__all__ = ["Quantize", "Quantized", "choose_quantizer", "planned_table", "quantize"]
