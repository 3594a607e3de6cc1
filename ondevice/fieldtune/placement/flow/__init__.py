"""A graph as an accelerator's compiler sees it: what reads what, which operators it takes, and in which pieces.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.placement.flow.dataflow import ACTIVATIONS, DEQUANTIZE, OUTPUT, QUANTIZE, VIEWS, Dataflow, trace
    from fieldtune.placement.flow.matching import heavy_nodes, match_nodes
    from fieldtune.placement.flow.offload import (
        CONVOLUTIONS,
        HEAVY,
        LONELY,
        MOVES,
        POOLS,
        PRODUCTS,
        data_inputs,
        is_depthwise,
        left_by_kind,
        left_to_cpu,
    )
    from fieldtune.placement.flow.partitions import convex_groups

__all__ = [
    "ACTIVATIONS",
    "CONVOLUTIONS",
    "DEQUANTIZE",
    "HEAVY",
    "LONELY",
    "MOVES",
    "OUTPUT",
    "POOLS",
    "PRODUCTS",
    "QUANTIZE",
    "VIEWS",
    "Dataflow",
    "convex_groups",
    "data_inputs",
    "heavy_nodes",
    "is_depthwise",
    "left_by_kind",
    "left_to_cpu",
    "match_nodes",
    "trace",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "dataflow": (
                "ACTIVATIONS",
                "DEQUANTIZE",
                "Dataflow",
                "OUTPUT",
                "QUANTIZE",
                "VIEWS",
                "trace",
            ),
            "matching": (
                "heavy_nodes",
                "match_nodes",
            ),
            "offload": (
                "CONVOLUTIONS",
                "HEAVY",
                "LONELY",
                "MOVES",
                "POOLS",
                "PRODUCTS",
                "data_inputs",
                "is_depthwise",
                "left_by_kind",
                "left_to_cpu",
            ),
            "partitions": ("convex_groups",),
        },
    )
