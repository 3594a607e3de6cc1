"""Parity of a split: prefix and suffix together compute what the whole graph computes, and each row for itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fieldtune.adapters import Adapter
from fieldtune.bundle import PREFIX_GRAPH, SUFFIX_GRAPHS, Bundle, Manifest
from fieldtune.errors import ParityError, listed
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.parity.whole import (
    arrays_of,
    compare_gradients,
    moved_inputs,
    open_on_cpu,
    perturbed,
    relative_difference,
    run_named,
)
from fieldtune_offline.tasks.interface import Task

SPLIT_TOLERANCE = 1e-5
"""Of losses, outputs and boundary: relative to the largest element. The arithmetic is the same, only cut in two."""
SPLIT_GRADIENT_TOLERANCE = 1e-4
"""Relative to the largest element of the tensor's gradient."""

_Arrays = Mapping[str, npt.NDArray[Any]]


def check_split(
    bundle: Bundle,
    adapted: Adapted,
    task: Task,
    initial: Adapter,
    shapes: Sequence[tuple[int, int]],
    folder: Path | None = None,
) -> None:
    """Compare the suffix graphs, fed by the prefix, with the whole graphs, at a perturbed adapter.

    Args:
        bundle: what is being built, as far as it is written.
        adapted: the torch model.
        task: gives batches.
        initial: its adapter, as read back from its folder.
        shapes: (batch, sequence) to compare at.
        folder: with the graphs; the bundle's own if None.

    Raises:
        ParityError: a difference above its tolerance; every one is listed.
    """
    names = [PREFIX_GRAPH, *SUFFIX_GRAPHS, *SUFFIX_GRAPHS.values()]
    place = bundle.root / "graphs" if folder is None else folder
    sessions = {name: open_on_cpu(place / f"{name}.onnx") for name in names}
    faults: list[str] = []
    manifest = bundle.manifest
    with perturbed(adapted) as theta:
        fed = moved_inputs(theta, initial, bundle)
        for seed, (batch, sequence) in enumerate(shapes):
            arrays = arrays_of(task.batch(batch, sequence, seed))
            boundary = run_named(sessions[PREFIX_GRAPH], arrays)
            differences = [*_mixed_rows(sessions[PREFIX_GRAPH], arrays, boundary)]
            for name, behind in SUFFIX_GRAPHS.items():
                feeds = {**arrays, **fed, "theta": theta}
                whole, rest = run_named(sessions[name], feeds), run_named(sessions[behind], {**feeds, **boundary})
                differences += [f"{behind}'s {fault}" for fault in _faults(rest, whole, manifest)]
            faults += [f"batch {batch}, sequence {sequence}: {fault}" for fault in differences]
    if faults:
        raise ParityError(f"the split does not compute what the whole does; nothing was written{listed(faults)}")


def _mixed_rows(prefix: Any, arrays: _Arrays, boundary: _Arrays) -> list[str]:
    """Return where a sample's rows depend on the samples beside it: in another order, each must be the same."""
    turned = run_named(prefix, {name: np.ascontiguousarray(array[::-1]) for name, array in arrays.items()})
    differences = {name: relative_difference(turned[name][::-1], rows) for name, rows in boundary.items()}
    return [
        f"a row of {name} depends on the samples beside it ({difference:.1e})"
        for name, difference in differences.items()
        if not difference <= SPLIT_TOLERANCE
    ]


def _faults(arrays: _Arrays, expected: _Arrays, manifest: Manifest) -> list[str]:
    faults: list[str] = []
    for name, array in expected.items():
        if name == "grad_sum":
            views = manifest.layout.views
            faults += compare_gradients(views(arrays[name]), views(array), SPLIT_GRADIENT_TOLERANCE).faults
        elif not (difference := relative_difference(arrays[name], array)) <= SPLIT_TOLERANCE:
            faults.append(f"{name} differs by {difference:.1e} of its largest element")
    return faults
