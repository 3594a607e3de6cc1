"""Targets: the frozen prefix of a split bundle, quantized for an accelerator, held to its rules, and measured."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.bundle import file_spec
from fieldtune.compilation.reference import HALF_UP
from fieldtune.data import EncodedSet, Example, load_examples
from fieldtune.data.batches import batch_of, static_shape
from fieldtune.errors import ExportError
from fieldtune.hardware import HardwareProfile, load_profile
from fieldtune.layout import FloatArray
from fieldtune.manifest import (
    IGNORE_INDEX,
    PREFIX_GRAPH,
    SUFFIX_GRAPHS,
    GraphSpec,
    Manifest,
    QuantizedAccuracy,
    TargetSpec,
    TaskSpec,
    TensorSpec,
)
from fieldtune.node_tables import read_node_table
from fieldtune.placement.plan import plan_placement
from fieldtune.placement.rules import check_rules, refuse
from fieldtune_offline.graphs import MIN_ORT
from fieldtune_offline.node_table import node_table
from fieldtune_offline.parity import open_session
from fieldtune_offline.passes.round_halves_up import round_halves_up
from fieldtune_offline.quantization import Quantize, quantize
from fieldtune_offline.quantization.accuracy import probe_accuracies, signal_to_noise_db
from fieldtune_offline.quantization.running import open_model

MEASURED_EXAMPLES = 512
"""On how many examples accuracy is measured, before and after; those that were not calibrated on come first."""
REFERENCE_SAMPLES = 4
REFERENCE_FOLDER = "reference"
_SEED = 0

Report = Callable[[str], None]
Arrays = Mapping[str, npt.NDArray[Any]]
Encode = Callable[[Sequence[Example]], EncodedSet]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Examples of the task for which a prefix is quantized.

    Attributes:
        encoded: all of them, in an order that mixes them: files are often sorted by label.
        count: how many ranges are taken from, from the first one on.
        adapter: what suffix_infer.onnx is fed of the bundle's own adapter, by input name, nothing of a merged one;
            None where its head is new, and knows nothing that is worth measuring.
    """

    encoded: EncodedSet
    count: int
    adapter: Mapping[str, FloatArray] | None = None


def read_calibration(path: Path, task: TaskSpec, count: int, encode: Encode) -> Calibration:
    """Read examples in the formats that training reads; which adapter is measured on them is not known yet.

    Args:
        path: a file or folder.
        task: says which labels there are.
        count: how many ranges are to be taken from.
        encode: makes inputs of them; texts are cut to the sequence of the prefix.

    Raises:
        InvalidData: examples that cannot be used; every one is named, up to 20.
        FieldtuneError: images have to be read, and Pillow is not installed.
    """
    examples, _ = load_examples(path, task)
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(examples))
    chosen = [examples[index] for index in order[: count + MEASURED_EXAMPLES]]
    encoded = encode(chosen)
    return Calibration(encoded=encoded, count=min(count, len(encoded.examples)))


def load_targets(names: Sequence[str]) -> list[HardwareProfile]:
    """Load the profiles to quantize for.

    Raises:
        ExportError: one without an accelerator, or the same twice.
        InvalidProfile: one that cannot be read.
    """
    profiles = [load_profile(name) for name in names]
    without = [profile.name for profile in profiles if profile.accelerator is None]
    if without:
        raise ExportError(f"{', '.join(without)}: the profile has no accelerator to quantize for; leave it out")
    twice = sorted({profile.name for profile in profiles if [p.name for p in profiles].count(profile.name) > 1})
    if twice:
        raise ExportError(f"{', '.join(twice)}: named twice as a target")
    return profiles


def add_targets(
    staging: Path,
    manifest: Manifest,
    targets: Sequence[HardwareProfile],
    calibration: Calibration,
    report: Report,
    quantizer: Quantize = quantize,
) -> Manifest:
    """Quantize the prefix of a bundle that is being written, for several accelerators; return the manifest with them.

    Args:
        staging: folder of the bundle.
        manifest: of it, with a split.
        targets: of ``load_targets``.
        calibration: examples.
        report: called with one line at the start of each stage.
        quantizer: what quantizes.

    Raises:
        ExportError: as ``add_target``.
        PlacementRefused: as ``add_target``.
    """
    for profile in targets:
        manifest = add_target(staging, manifest, profile, calibration, report, quantizer)
    return manifest


def add_target(
    staging: Path,
    manifest: Manifest,
    profile: HardwareProfile,
    calibration: Calibration,
    report: Report,
    quantizer: Quantize = quantize,
) -> Manifest:
    """Quantize the prefix of a bundle that is being written, for one accelerator; return the manifest with the target.

    Args:
        staging: folder of the bundle.
        manifest: of it, with a split.
        profile: with an accelerator.
        calibration: examples.
        report: called with one line at the start of each stage.
        quantizer: what quantizes.

    Raises:
        ExportError: no examples; or UnsupportedModel, an operator or a size that the accelerator cannot take.
        PlacementRefused: the accelerator's compiler would refuse the result; with the rules' names.
    """
    assert profile.accelerator is not None
    accelerator, name = profile.accelerator, f"{PREFIX_GRAPH}_{profile.name}"
    report(f"quantizing the prefix for {profile.name}")
    source = staging / manifest.graphs[PREFIX_GRAPH].path
    feeds = (
        {name: array[:count] for name, array in arrays.items()}
        for count, arrays in _batches(calibration.encoded, range(calibration.count), manifest, accelerator.batch)
    )
    quantized = quantizer(source, accelerator, feeds, report=report)
    quantized.model.graph.name = name
    spec = _write(quantized.model, name, staging)
    table = read_node_table(staging / spec.nodes)
    refuse(check_rules(table, profile), name, accelerator.target)
    plan = plan_placement(table, accelerator)
    report(f"{profile.name}: {plan.offload:.1%} of the prefix's products in {len(plan.partitions)} partition(s)")
    report(f"measuring what quantizing for {profile.name} cost")
    sessions = _Sessions(
        exact=open_session(source),
        quantized=open_model(quantized.model, fused=False),
        suffix=open_session(staging / manifest.graphs[SUFFIX_GRAPHS["infer"]].path),
    )
    reference = f"{REFERENCE_FOLDER}/{profile.name}.safetensors"
    raised = quantized.model.clone()
    round_halves_up(raised)
    half_up = dataclasses.replace(sessions, quantized=open_model(raised, fused=False))
    _write_reference(staging / reference, (sessions, half_up), calibration, manifest, accelerator.batch)
    target = TargetSpec(
        profile=profile.name,
        target=accelerator.target,
        graph=name,
        precision=accelerator.precision,
        activation_type=accelerator.activation_type,
        zero_point=accelerator.zero_point,
        batch=accelerator.batch,
        quantizer=quantized.quantizer,
        calibration_examples=quantized.examples,
        accuracy=_measured(sessions, calibration, manifest, accelerator.batch),
        reference=reference,
    )
    new = {path: file_spec(staging / path) for path in (spec.path, spec.nodes, reference)}
    return dataclasses.replace(
        manifest,
        graphs={**manifest.graphs, name: spec},
        targets={**manifest.targets, profile.name: target},
        files={**manifest.files, **new},
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Sessions:
    """The prefix in float32 and in INT8, and what is behind it."""

    exact: Any
    quantized: Any
    suffix: Any


def _write(model: ir.Model, name: str, staging: Path) -> GraphSpec:
    spec = GraphSpec(
        path=f"graphs/{name}.onnx",
        nodes=f"graphs/{name}.nodes.json",
        opset=model.opset_imports[""],
        ir_version=model.ir_version,
        min_ort=MIN_ORT,
        inputs=tuple(_tensor(value) for value in model.graph.inputs),
        outputs=tuple(_tensor(value) for value in model.graph.outputs),
        adapter_inputs=(),
    )
    ir.save(model, staging / spec.path)
    (staging / spec.nodes).write_text(node_table(model), encoding="utf-8")
    return spec


def _tensor(value: ir.Value) -> TensorSpec:
    assert value.dtype is not None
    assert value.shape is not None
    return TensorSpec(name=str(value.name), dtype=str(value.dtype.numpy()), shape=tuple(value.shape.numpy()))


def _batches(
    encoded: EncodedSet, indices: Sequence[int], manifest: Manifest, batch: int
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Yield how many samples there are in a batch, and its arrays, of which the last sample fills up the last ones."""
    inputs = manifest.graphs[PREFIX_GRAPH].inputs
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        filled = [*chosen, *[chosen[-1]] * (batch - len(chosen))]
        yield len(chosen), batch_of(encoded.examples, np.array(filled), manifest, inputs)


def _boundaries(
    sessions: _Sessions, encoded: EncodedSet, indices: Sequence[int], manifest: Manifest, batch: int
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[np.float32]]]:
    """Return what the exact and the quantized prefix give for some examples."""
    assert manifest.split is not None
    names = [tensor.name for tensor in manifest.split.boundary]
    exact: list[list[npt.NDArray[np.float32]]] = []
    quantized: list[list[npt.NDArray[np.float32]]] = []
    for count, arrays in _batches(encoded, indices, manifest, batch):
        exact.append([array[:count] for array in sessions.exact.run(names, arrays)])
        quantized.append([array[:count] for array in sessions.quantized.run(names, arrays)])
    return _joined(names, exact), _joined(names, quantized)


def _joined(
    names: Sequence[str], parts: Sequence[Sequence[npt.NDArray[np.float32]]]
) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


def _measured(
    sessions: _Sessions, calibration: Calibration, manifest: Manifest, batch: int
) -> QuantizedAccuracy | None:
    """Return accuracy before and after on the examples with a label; None where there are too few."""
    examples = calibration.encoded.examples
    # Those that were not calibrated on first; in a small file, the others too.
    order = [*range(calibration.count, len(examples)), *range(calibration.count)]
    labelled = [index for index in order if int(examples[index].labels) != IGNORE_INDEX][:MEASURED_EXAMPLES]
    if len(labelled) < 2:
        return None
    exact, quantized = _boundaries(sessions, calibration.encoded, labelled, manifest, batch)
    labels = np.array([int(examples[index].labels) for index in labelled], np.int64)
    if calibration.adapter is not None:
        feeds = {**_suffix_feeds(calibration.encoded, labelled, manifest), **calibration.adapter}
        before, after = (_accuracy(sessions.suffix, {**feeds, **boundary}, labels) for boundary in (exact, quantized))
        counted = len(labels)
    else:
        before, after, counted = probe_accuracies(exact, quantized, labels)
    return QuantizedAccuracy(
        measure="linear probe" if calibration.adapter is None else "model",
        examples=counted,
        before=before,
        after=after,
        boundary_snr_db=signal_to_noise_db(exact, quantized),
    )


def _suffix_feeds(encoded: EncodedSet, indices: Sequence[int], manifest: Manifest) -> Arrays:
    inputs = manifest.graphs[SUFFIX_GRAPHS["infer"]].inputs
    _, sequence = static_shape(manifest.graphs[PREFIX_GRAPH].inputs)
    return batch_of(encoded.examples, np.array(indices), manifest, inputs, (None, sequence))


def _accuracy(suffix: Any, feeds: Arrays, labels: npt.NDArray[np.int64]) -> float:
    (logits,) = suffix.run(["logits"], dict(feeds))
    return float(np.mean(logits.argmax(axis=-1) == labels))


def _write_reference(
    path: Path, sessions: tuple[_Sessions, _Sessions], calibration: Calibration, manifest: Manifest, batch: int
) -> None:
    """Write inputs and what the quantized prefix gives for them, with halves to even and up, each by its name."""
    from safetensors.numpy import save_file

    samples = range(min(REFERENCE_SAMPLES, len(calibration.encoded.examples)))
    parts = [
        {name: array[:count] for name, array in arrays.items()}
        for count, arrays in _batches(calibration.encoded, samples, manifest, batch)
    ]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    (_, outputs), (_, raised) = (_boundaries(each, calibration.encoded, samples, manifest, batch) for each in sessions)
    half_up = {f"{name}{HALF_UP}": array for name, array in raised.items()}
    path.parent.mkdir(exist_ok=True)
    held = {**inputs, **outputs, **half_up}
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, str(path))
    path.chmod(0o644)
