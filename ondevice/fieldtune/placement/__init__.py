"""Where each part of a graph runs: planned from its node table, checked against the target, and reported.

The names below are what other rooms use of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.placement.flow import (
        ACTIVATIONS,
        CONVOLUTIONS,
        DEQUANTIZE,
        HEAVY,
        MOVES,
        OUTPUT,
        POOLS,
        PRODUCTS,
        QUANTIZE,
        VIEWS,
        Dataflow,
        data_inputs,
        left_by_kind,
        trace,
    )
    from fieldtune.placement.limit_rules import activation_name
    from fieldtune.placement.opening import open_graph
    from fieldtune.placement.picture import placement_picture
    from fieldtune.placement.pieces import Piece, split_pieces
    from fieldtune.placement.plan import OPERATIONS_OF_A_MAC, PlacementPlan, estimate_run_s, plan_placement
    from fieldtune.placement.readback import Ran, RanPiece, describe, match_pieces, open_recorded
    from fieldtune.placement.reports import (
        PlacementReport,
        ProviderShare,
        accelerator_report,
        demand_faults,
        hold_to,
        plain_report,
        plan_shares,
        read_report,
    )
    from fieldtune.placement.rules import accelerator_bytes, check_rules, refuse
    from fieldtune.placement.targets import choose_for, find_target
    from fieldtune.placement.violations import Violation

__all__ = [
    "ACTIVATIONS",
    "CONVOLUTIONS",
    "DEQUANTIZE",
    "HEAVY",
    "MOVES",
    "OPERATIONS_OF_A_MAC",
    "OUTPUT",
    "POOLS",
    "PRODUCTS",
    "QUANTIZE",
    "VIEWS",
    "Dataflow",
    "Piece",
    "PlacementPlan",
    "PlacementReport",
    "ProviderShare",
    "Ran",
    "RanPiece",
    "Violation",
    "accelerator_bytes",
    "accelerator_report",
    "activation_name",
    "check_rules",
    "choose_for",
    "data_inputs",
    "demand_faults",
    "describe",
    "estimate_run_s",
    "find_target",
    "hold_to",
    "left_by_kind",
    "match_pieces",
    "open_graph",
    "open_recorded",
    "placement_picture",
    "plain_report",
    "plan_placement",
    "plan_shares",
    "read_report",
    "refuse",
    "split_pieces",
    "trace",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "flow": (
                "ACTIVATIONS",
                "CONVOLUTIONS",
                "DEQUANTIZE",
                "Dataflow",
                "HEAVY",
                "MOVES",
                "OUTPUT",
                "POOLS",
                "PRODUCTS",
                "QUANTIZE",
                "VIEWS",
                "data_inputs",
                "left_by_kind",
                "trace",
            ),
            "limit_rules": ("activation_name",),
            "opening": ("open_graph",),
            "picture": ("placement_picture",),
            "pieces": (
                "Piece",
                "split_pieces",
            ),
            "plan": (
                "OPERATIONS_OF_A_MAC",
                "PlacementPlan",
                "estimate_run_s",
                "plan_placement",
            ),
            "readback": (
                "Ran",
                "RanPiece",
                "describe",
                "match_pieces",
                "open_recorded",
            ),
            "reports": (
                "PlacementReport",
                "ProviderShare",
                "accelerator_report",
                "demand_faults",
                "hold_to",
                "plain_report",
                "plan_shares",
                "read_report",
            ),
            "rules": (
                "accelerator_bytes",
                "check_rules",
                "refuse",
            ),
            "targets": (
                "choose_for",
                "find_target",
            ),
            "violations": ("Violation",),
        },
    )
