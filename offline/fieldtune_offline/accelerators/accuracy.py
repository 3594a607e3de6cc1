"""What quantizing a prefix cost: accuracy with the float32 prefix and with the quantized one, in either rounding."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.bundle import PREFIX_GRAPH, SUFFIX_GRAPHS, Manifest, QuantizedAccuracy
from fieldtune.compilation import HALF_UP
from fieldtune.data import batch_of, static_shape
from fieldtune_offline.accelerators.calibration_data import Calibration, padded_batches
from fieldtune_offline.accelerators.int8.boundary_quality import Boundary, Labels, probe_accuracies, signal_to_noise_db
from fieldtune_offline.accelerators.int8.running import open_model
from fieldtune_offline.parity.whole import open_on_cpu
from fieldtune_offline.passes.round_halves_up import round_halves_up

REFERENCE_SAMPLES = 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """One prefix in its forms, as sessions, and what is behind it.

    Attributes:
        exact: in float32.
        half_even: quantized, as ONNX Runtime rounds.
        half_up: quantized, as a DPU rounds.
        suffix: suffix_infer.onnx.
    """

    exact: Any
    half_even: Any
    half_up: Any
    suffix: Any


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Boundaries:
    """What the forms of a prefix give for the same examples."""

    exact: Boundary
    half_even: Boundary
    half_up: Boundary


def open_prefixes(staging: Path, manifest: Manifest, quantized: ir.Model, source: Path | None = None) -> Prefixes:
    """Open the forms of a bundle's prefix.

    Args:
        staging: folder of the bundle.
        manifest: of it, with a split.
        quantized: the prefix for an accelerator.
        source: file of the float32 prefix; the bundle's own if None.
    """
    raised = quantized.clone()
    round_halves_up(raised)
    return Prefixes(
        exact=open_on_cpu(staging / manifest.graphs[PREFIX_GRAPH].path if source is None else source),
        half_even=open_model(quantized, fused=False),
        half_up=open_model(raised, fused=False),
        suffix=open_on_cpu(staging / manifest.graphs[SUFFIX_GRAPHS["infer"]].path),
    )


def measure_accuracy(
    prefixes: Prefixes, calibration: Calibration, manifest: Manifest, batch: int
) -> QuantizedAccuracy | None:
    """Return accuracy on examples that were not calibrated on; None where there are too few.

    Args:
        prefixes: of the bundle.
        calibration: its examples.
        manifest: of the bundle.
        batch: samples in a run of the quantized prefix.
    """
    if calibration.unmeasured is not None:
        return None
    indices = calibration.measured
    boundaries = _boundaries(prefixes, calibration, indices, manifest, batch)
    labels = np.array([int(calibration.encoded.examples[index].arrays["labels"]) for index in indices], np.int64)
    if calibration.adapter is not None:
        feeds = {**_suffix_feeds(calibration, indices, manifest), **calibration.adapter}
        before, after, raised = (
            _accuracy(prefixes.suffix, {**feeds, **boundary}, labels)
            for boundary in (boundaries.exact, boundaries.half_even, boundaries.half_up)
        )
        counted = len(labels)
    else:
        before, after, counted = probe_accuracies(boundaries.exact, boundaries.half_even, labels)
        _, raised, _ = probe_accuracies(boundaries.exact, boundaries.half_up, labels)
    return QuantizedAccuracy(
        measure="linear probe" if calibration.adapter is None else "model",
        examples=counted,
        before=before,
        after=after,
        after_half_up=raised,
        boundary_snr_db=signal_to_noise_db(boundaries.exact, boundaries.half_even),
    )


def write_reference(path: Path, prefixes: Prefixes, calibration: Calibration, manifest: Manifest, batch: int) -> None:
    """Write inputs and what the quantized prefix gives for them, with halves to even and up, each by its name.

    Args:
        path: of the file.
        prefixes: of the bundle.
        calibration: its examples, of which the first few are written.
        manifest: of the bundle.
        batch: samples in a run of the quantized prefix.
    """
    from safetensors.numpy import save_file

    samples = range(min(REFERENCE_SAMPLES, len(calibration.encoded.examples)))
    parts = [
        {name: array[:count] for name, array in arrays.items()}
        for count, arrays in padded_batches(calibration.encoded, samples, manifest, batch)
    ]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    boundaries = _boundaries(prefixes, calibration, samples, manifest, batch)
    half_up = {f"{name}{HALF_UP}": array for name, array in boundaries.half_up.items()}
    path.parent.mkdir(exist_ok=True)
    held = {**inputs, **boundaries.half_even, **half_up}
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, str(path))
    path.chmod(0o644)


def _boundaries(
    prefixes: Prefixes, calibration: Calibration, indices: Sequence[int], manifest: Manifest, batch: int
) -> _Boundaries:
    """Return what the forms of the prefix give for some examples."""
    assert manifest.split is not None
    names = [tensor.name for tensor in manifest.split.boundary]
    sessions = (prefixes.exact, prefixes.half_even, prefixes.half_up)
    parts: list[list[list[npt.NDArray[np.float32]]]] = [[] for _ in sessions]
    for count, arrays in padded_batches(calibration.encoded, indices, manifest, batch):
        for part, session in zip(parts, sessions, strict=True):
            part.append([array[:count] for array in session.run(names, arrays)])
    exact, half_even, half_up = (
        {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*part, strict=True), strict=True)}
        for part in parts
    )
    return _Boundaries(exact=exact, half_even=half_even, half_up=half_up)


def _suffix_feeds(
    calibration: Calibration, indices: Sequence[int], manifest: Manifest
) -> Mapping[str, npt.NDArray[Any]]:
    inputs = manifest.graphs[SUFFIX_GRAPHS["infer"]].inputs
    _, sequence = static_shape(manifest.graphs[PREFIX_GRAPH].inputs)
    return batch_of(
        calibration.encoded.examples, np.array(indices), inputs, image=manifest.image, shape=(None, sequence)
    )


def _accuracy(suffix: Any, feeds: Mapping[str, npt.NDArray[Any]], labels: Labels) -> float:
    (logits,) = suffix.run(["logits"], dict(feeds))
    return float(np.mean(logits.argmax(axis=-1) == labels))
