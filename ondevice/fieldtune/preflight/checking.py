"""check_bundle: whether a bundle would run on a device, where, in how much memory, and about how fast."""

import dataclasses
from collections.abc import Sequence

from fieldtune.bundle import Bundle
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import CPU_PROVIDER, HardwareProfile, integer_kernels, kernel_advice, release
from fieldtune.preflight.memory import MemoryPrediction, predict_memory
from fieldtune.preflight.placing import GraphPlacement, place_graph
from fieldtune.preflight.step_time import TimeEstimate, estimate_time
from fieldtune.preflight.storage import StorageNeed, storage_need
from fieldtune.preflight.workload import Use, Workload, sizes_of, uses_of, workload_of

_OPTIONAL: Use = "training with evaluation"
"""What need not fit: training does without."""
_TIGHT = 0.8
"""Of the memory: what is predicted is known to be off by up to 20 %."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Preflight:
    """What a device would make of a bundle.

    Attributes:
        refusals: why it cannot run, in words; none if it can.
        warnings: what to know before it does.
        batch: samples of one run on the CPU.
        sequence: tokens of a sample, at most; 0 for images.
        placements: of every graph, each once.
        memory: of every use.
        memory_limit_bytes: what the profile says that there is; None where it does not.
        storage: on disk.
        times: estimates for every use.
    """

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    batch: int
    sequence: int
    placements: tuple[GraphPlacement, ...]
    memory: tuple[MemoryPrediction, ...]
    memory_limit_bytes: int | None
    storage: StorageNeed
    times: tuple[TimeEstimate, ...]

    @property
    def runs(self) -> bool:
        """Whether nothing stands against it."""
        return not self.refusals


def check_bundle(
    bundle: Bundle,
    profile: HardwareProfile,
    *,
    batch_size: int | None = None,
    max_length: int | None = None,
    samples: int | None = None,
) -> Preflight:
    """Say what a device would make of a bundle, from its manifest and node tables.

    Args:
        bundle: the bundle; ``open_tables`` is enough.
        profile: of the device.
        batch_size: samples that go in together; the profile's training batch, or the static graphs' own, if None.
        max_length: tokens of a sample; the profile's or the model's limit if None.
        samples: how many examples the data has; without it neither they nor the activation cache are counted.

    Raises:
        InvalidBundle: a node table cannot be read.
        ValueError: more samples or tokens than static graphs take.
    """
    batch, sequence = sizes_of(bundle, profile, batch_size, max_length)
    works: list[Workload] = []
    try:
        works = [
            workload_of(bundle, profile, use, batch=batch, sequence=sequence, samples=samples or 0)
            for use in uses_of(bundle)
        ]
        refusals = _version_faults(works)
    except InvalidBundle as error:
        refusals = [str(error)]
    placements = _placements(works)
    memory = tuple(map(predict_memory, works))
    limit = profile.memory.available_for_app_bytes or profile.memory.total_bytes
    for placement in placements:
        refusals += [violation.message for violation in placement.violations]
        refusals += placement.faults
    refusals += [fault for prediction in memory if (fault := _memory_fault(prediction, limit))]
    prefix = next((work.prefix for work in works if work.prefix), None)
    return Preflight(
        refusals=tuple(dict.fromkeys(refusals)),
        warnings=(*_kernel_warnings(works, profile), *_warnings(profile, memory, limit)),
        batch=batch,
        sequence=sequence,
        placements=placements,
        memory=memory,
        memory_limit_bytes=limit,
        storage=storage_need(bundle, prefix, samples),
        times=tuple(estimate_time(work, placements) for work in works if work.use != "training with evaluation"),
    )


def _placements(works: Sequence[Workload]) -> tuple[GraphPlacement, ...]:
    """Return where each graph would run, each once."""
    placements: dict[str, GraphPlacement] = {}
    for work in works:
        for part in work.parts:
            if part.graph not in placements:
                placements[part.graph] = place_graph(part, work.profile)
    return tuple(placements.values())


def _version_faults(works: Sequence[Workload]) -> list[str]:
    """Return what the profile's ONNX Runtime is too old for."""
    return [
        f"{part.graph}: needs ONNX Runtime {needed} or later; the profile {work.profile.name} is for {there} "
        "(ort_version)"
        for work in works
        for part in work.parts
        if release(needed := work.bundle.manifest.graphs[part.graph].min_ort)
        > release(there := work.profile.runtime.ort_version)
    ]


def _memory_fault(prediction: MemoryPrediction, limit: int | None) -> str:
    if limit is None or prediction.total_bytes <= limit or prediction.use == _OPTIONAL:
        return ""
    size = f"a batch of {prediction.batch}" + (f", {prediction.sequence} tokens each," if prediction.sequence else "")
    return (
        f"{prediction.use} with {size} would need {_megabytes(prediction.total_bytes)} of memory, and the profile has "
        f"{_megabytes(limit)}: take a smaller --batch-size or --max-length, or a profile with prepacking and "
        "memory_pattern off"
    )


def _kernel_warnings(works: Sequence[Workload], profile: HardwareProfile) -> list[str]:
    multiplied = any(part.integer_macs for work in works for part in work.parts if not part.on_accelerator)
    told = kernel_advice(integer_kernels(profile.cpu)) if multiplied else ""
    return [told] if told else []


def _warnings(profile: HardwareProfile, memory: Sequence[MemoryPrediction], limit: int | None) -> list[str]:
    warnings = []
    if profile.support == "legacy":
        warnings.append(f"{profile.name} is legacy: its vendor's current software no longer targets it")
    if profile.accelerator is None and profile.execution.provider != CPU_PROVIDER:
        warnings.append(
            f"what {profile.execution.provider} leaves to the CPU shows only when a graph is opened; then it is read "
            "back and held against min_offload and max_partitions"
        )
    if limit is None:
        warnings.append(f"the profile {profile.name} does not say how much memory there is")
    for prediction in memory:
        if limit is not None and prediction.total_bytes > _TIGHT * limit and not _memory_fault(prediction, limit):
            need = f"{_megabytes(prediction.total_bytes)} of {_megabytes(limit)}"
            warnings.append(f"{prediction.use} would need {need}; the prediction can be off by 20 %")
    unknown = max((prediction.unknown_tensors for prediction in memory), default=0)
    if unknown:
        warnings.append(f"{unknown} tensors have no size in the node tables, and are not counted")
    return warnings


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
