"""Peak memory of a process that trains, evaluates or serves a bundle, predicted from its node tables.

What is predicted is the largest resident set, as Linux counts it (VmHWM): memory of its own, and pages of files that
it has mapped and read. ``docs/benchmarks.md`` has what was measured beside it, and the command.
"""

import dataclasses
from collections.abc import Sequence

from fieldtune.activations import CacheSettings
from fieldtune.bundle import TOKENIZER_NAME, NodeTable, tensor_bytes
from fieldtune.placement import accelerator_bytes
from fieldtune.preflight.sessions import (
    Arena,
    BufferEvent,
    BufferPlan,
    WeightMemory,
    pattern_bytes,
    plan_buffers,
    run_steps,
    weight_memory,
)
from fieldtune.preflight.storage import sample_bytes
from fieldtune.preflight.workload import Use, Workload

PROCESS_BYTES = 91_000_000
"""fieldtune train with Python, NumPy and ONNX Runtime, without what grows with the bundle: measured on x86-64 with
Python 3.11, NumPy 2.4 and ONNX Runtime 1.31.1 by benchmarks/preflight_memory.py --base."""
_SESSION_BYTES, _NODE_BYTES = 2_000_000, 4_900
"""Of a session, and of each of its nodes: measured there, too."""
_TOKENIZER_FACTOR = 9
"""Memory of a tokenizer, in sizes of its file: 9 of SmolLM2's, 11 of MiniLM's."""
_VECTORS = 9
"""float32 vectors of theta's size while training: theta, the next one, the gradient and its sum from the graph, AdamW's
two means and scratch, and the two thetas that the loop holds on to."""
_BATCH_COPIES = 3
"""Of a batch while it is put together: as read, normalized, and as fed."""
_EXAMPLE_BYTES = 500
"""Of Python's objects around an example."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPrediction:
    """The peak memory of one use of a bundle.

    Attributes:
        use: what for.
        graphs: that are opened, by name.
        batch: samples of one run.
        sequence: tokens of a sample; 0 for images.
        process_bytes: of the programs, without any bundle.
        data_bytes: of the tokenizer, the examples and a batch.
        session_bytes: of the opened graphs themselves.
        mapped_bytes: of weights that are read where they lie in the bundle's file.
        copied_bytes: of weights that are packed or changed.
        activation_bytes: of what the graphs compute, as the allocator serves it.
        pattern_bytes: of the block that ``memory_pattern`` takes beside them from the second run on.
        adapter_bytes: of theta, its gradient and the optimizer's state, or of the adapter that is fed.
        accelerator_bytes: of the graph on the accelerator, where that uses the main memory.
        unknown_tensors: whose size the node tables do not tell; they are left out.
    """

    use: Use
    graphs: tuple[str, ...]
    batch: int
    sequence: int
    process_bytes: int
    data_bytes: int
    session_bytes: int
    mapped_bytes: int
    copied_bytes: int
    activation_bytes: int
    pattern_bytes: int
    adapter_bytes: int
    accelerator_bytes: int
    unknown_tensors: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in dataclasses.fields(self) if field.name.endswith("_bytes"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Session:
    table: NodeTable
    plan: BufferPlan
    weights: WeightMemory


def predict_memory(work: Workload) -> MemoryPrediction:
    """Return the peak memory of a use: examples are held in memory, and so is a part of their activations."""
    sessions = [_session(work, index) for index, part in enumerate(work.parts) if not part.on_accelerator]
    activations, patterns = _activations(sessions, work)
    theta_bytes = 4 * work.bundle.manifest.layout.size
    return MemoryPrediction(
        use=work.use,
        graphs=tuple(part.graph for part in work.parts),
        batch=work.batch,
        sequence=work.sequence,
        process_bytes=PROCESS_BYTES,
        data_bytes=_data_bytes(work) + work.samples * _example_bytes(work) + _kept_bytes(work),
        session_bytes=sum(_SESSION_BYTES + _NODE_BYTES * len(session.table.nodes) for session in sessions),
        mapped_bytes=sum(session.weights.mapped_bytes for session in sessions),
        copied_bytes=sum(session.weights.packed_bytes + session.weights.copied_bytes for session in sessions),
        activation_bytes=activations,
        pattern_bytes=patterns,
        adapter_bytes=theta_bytes * (_VECTORS if work.use.startswith("training") else 2),
        accelerator_bytes=_accelerator_bytes(work),
        unknown_tensors=sum(session.plan.unknown_tensors for session in sessions),
    )


def _session(work: Workload, index: int) -> _Session:
    part, runtime = work.parts[index], work.profile.runtime
    spec = work.bundle.manifest.graphs[part.graph]
    steps = run_steps(part.table, runtime.graph_optimization, in_order=spec.in_order)
    weights = weight_memory(
        part.table,
        steps,
        fed={fed.name for fed in (*spec.inputs, *spec.adapter_inputs)},
        prepacking=runtime.prepacking,
        optimization=runtime.graph_optimization,
        architecture=work.profile.cpu.architecture,
    )
    plan = plan_buffers(part.table, steps, part.sizes(), prepacking=runtime.prepacking)
    return _Session(table=part.table, plan=plan, weights=weights)


def _activations(sessions: Sequence[_Session], work: Workload) -> tuple[int, int]:
    """Return what the allocator takes for the runs of all sessions, and what their patterns add."""
    runtime = work.profile.runtime
    shared = Arena(runtime.arena_extend)
    first = second = 0
    for session in sessions:
        # Without an arena, memory goes back to the system's allocator, which splits and joins much as an arena does.
        own = runtime.arena and runtime.arena_extend == "as-requested"
        arena = shared if own else Arena(runtime.arena_extend if runtime.arena else "as-requested")
        before = arena.written_bytes
        arena.run(session.plan.events)
        run = arena.written_bytes
        first += run - before
        if runtime.memory_pattern:
            block = pattern_bytes(session.plan.events)
            if runtime.arena:
                arena.run(_block(block))
                second += arena.written_bytes - run
            else:
                second += max(0, block - run)
    return first, second


def _block(size_bytes: int) -> tuple[BufferEvent, ...]:
    block = BufferEvent(buffer="memory pattern", size_bytes=size_bytes, taken=True, planned=True)
    return (block, dataclasses.replace(block, taken=False))


def _data_bytes(work: Workload) -> int:
    manifest, first = work.bundle.manifest, work.parts[0]
    sizes = first.sizes(work.batch)
    names = [spec.name for spec in manifest.graphs[first.graph].inputs if spec.name != "theta"]
    fed = sum(tensor_bytes(first.table.values[name], sizes) for name in names)
    tokenizer = manifest.files[TOKENIZER_NAME].size_bytes if TOKENIZER_NAME in manifest.files else 0
    return _BATCH_COPIES * fed + _TOKENIZER_FACTOR * tokenizer


def _example_bytes(work: Workload) -> int:
    image = work.bundle.manifest.image
    if image is not None:
        return _EXAMPLE_BYTES + image.height * image.width * image.channels
    return _EXAMPLE_BYTES + 2 * 8 * work.sequence  # token ids and labels, int64


def _kept_bytes(work: Workload) -> int:
    """Return what the activation cache holds in memory: nothing is looked up twice by inference."""
    if work.prefix is None or work.use == "inference":
        return 0
    return min(work.samples * sample_bytes(work.bundle, work.prefix), CacheSettings().memory_bytes)


def _accelerator_bytes(work: Workload) -> int:
    accelerator = work.profile.accelerator
    if accelerator is None or accelerator.memory_bytes is not None:
        return 0
    return sum(accelerator_bytes(part.table, work.profile) for part in work.parts if part.on_accelerator)
