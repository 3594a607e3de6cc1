"""What a session of ONNX Runtime takes: the graph as it is run, its buffers, the arena, and its weights.

The names below are what the rest of the room uses of it; they are loaded on first use.
"""

from typing import TYPE_CHECKING

from fieldtune.lazy import lazy_names

if TYPE_CHECKING:
    from fieldtune.preflight.sessions.arena import Arena, pattern_bytes
    from fieldtune.preflight.sessions.buffers import BufferEvent, BufferPlan, plan_buffers
    from fieldtune.preflight.sessions.runtime_graph import run_steps
    from fieldtune.preflight.sessions.weights import WeightMemory, weight_memory

__all__ = [
    "Arena",
    "BufferEvent",
    "BufferPlan",
    "WeightMemory",
    "pattern_bytes",
    "plan_buffers",
    "run_steps",
    "weight_memory",
]

if not TYPE_CHECKING:  # to a type checker a module with it has every name
    __getattr__ = lazy_names(
        __name__,
        {
            "arena": (
                "Arena",
                "pattern_bytes",
            ),
            "buffers": (
                "BufferEvent",
                "BufferPlan",
                "plan_buffers",
            ),
            "runtime_graph": ("run_steps",),
            "weights": (
                "WeightMemory",
                "weight_memory",
            ),
        },
    )
