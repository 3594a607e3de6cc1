"""Quantized prefixes: the frozen part of a split bundle for each accelerator, held to its rules, and measured."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from fieldtune.bundle import (
    PREFIX_GRAPH,
    Bundle,
    GraphSpec,
    Manifest,
    NodeTable,
    TargetSpec,
    TensorSpec,
    file_spec,
    read_node_table,
)
from fieldtune.compilation import planned_report
from fieldtune.errors import ExportError
from fieldtune.hardware import CPU_PROVIDER, Accelerator, HardwareProfile, load_profile
from fieldtune.placement import PlacementReport
from fieldtune.runtime import choose_provider
from fieldtune_offline.accelerators.accuracy import measure_accuracy, open_prefixes, write_reference
from fieldtune_offline.accelerators.calibration_data import Calibration, padded_batches
from fieldtune_offline.accelerators.int8 import Quantize, Quantized, planned_table, quantize
from fieldtune_offline.graph import MIN_ORT
from fieldtune_offline.node_table import node_table
from fieldtune_offline.parity.unpacked import write_unpacked
from fieldtune_offline.progress import Report

REFERENCE_FOLDER = "reference"
_UNPACKED = "unpacked"


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
    report(str(calibration))
    with _float32_prefix(staging, manifest) as source:
        if quantizer is quantize:
            # Another quantizer may leave other operators in float32, so that its result alone tells.
            for profile in targets:
                _check_plan(source, profile)
        for profile in targets:
            manifest = add_target(staging, manifest, profile, calibration, report, quantizer, source)
    return manifest


@contextlib.contextmanager
def _float32_prefix(staging: Path, manifest: Manifest) -> Iterator[Path]:
    """Give the file of the float32 prefix: of a packed base one with unpacked matrices, for as long as that takes."""
    path = manifest.graphs[PREFIX_GRAPH].path
    if manifest.base.packed is None:
        yield staging / path
        return
    folder = staging / _UNPACKED
    write_unpacked(Bundle(staging, manifest), [PREFIX_GRAPH], folder)
    yield folder / path
    shutil.rmtree(folder)


def add_target(
    staging: Path,
    manifest: Manifest,
    profile: HardwareProfile,
    calibration: Calibration,
    report: Report,
    quantizer: Quantize = quantize,
    source: Path | None = None,
) -> Manifest:
    """Quantize the prefix of a bundle that is being written, for one accelerator; return the manifest with the target.

    Args:
        staging: folder of the bundle.
        manifest: of it, with a split.
        profile: with an accelerator.
        calibration: examples.
        report: called with one line at the start of each stage.
        quantizer: what quantizes.
        source: file of the float32 prefix; the bundle's own if None.

    Raises:
        ExportError: no examples; or UnsupportedModel, an operator or a size that the accelerator cannot take.
        PlacementRefused: the accelerator's compiler would refuse the result, by the rules' names, or less of it would
            run on the accelerator, or in more pieces, than the profile allows.
    """
    assert profile.accelerator is not None
    accelerator, name = profile.accelerator, f"{PREFIX_GRAPH}_{profile.name}"
    report(f"quantizing the prefix for {profile.name}")
    source = staging / manifest.graphs[PREFIX_GRAPH].path if source is None else source
    quantized = _quantized(source, manifest, accelerator, calibration, report, quantizer)
    quantized.model.graph.name = name
    spec = _write(quantized.model, name, staging)
    placement = _held(read_node_table(staging / spec.nodes), profile, name)
    report(f"{profile.name}: {placement.offload:.1%} of the prefix's products in {placement.partitions} partition(s)")
    report(f"measuring what quantizing for {profile.name} cost")
    prefixes = open_prefixes(staging, manifest, quantized.model, source)
    reference = f"{REFERENCE_FOLDER}/{profile.name}.safetensors"
    write_reference(staging / reference, prefixes, calibration, manifest, accelerator.batch)
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
        accuracy=measure_accuracy(prefixes, calibration, manifest, accelerator.batch),
        unmeasured=calibration.unmeasured,
        reference=reference,
    )
    new = {path: file_spec(staging / path) for path in (spec.path, spec.nodes, reference)}
    return dataclasses.replace(
        manifest,
        graphs={**manifest.graphs, name: spec},
        targets={**manifest.targets, profile.name: target},
        files={**manifest.files, **new},
    )


def _check_plan(source: Path, profile: HardwareProfile) -> None:
    """Refuse a prefix that could not be placed as a profile demands, before the minutes of quantizing it.

    Args:
        source: file of the float32 prefix, of which the batch alone may vary.
        profile: with an accelerator.

    Raises:
        UnsupportedModel: an operator or a size that the accelerator cannot take.
        PlacementRefused: as ``add_target``.
    """
    assert profile.accelerator is not None
    _held(planned_table(source, profile.accelerator), profile, f"{PREFIX_GRAPH}_{profile.name}")


def _held(table: NodeTable, profile: HardwareProfile, graph: str) -> PlacementReport:
    """Hold a prefix to what the accelerator takes and the profile demands; return where it would run."""
    return planned_report(table, profile, choose_provider(profile, (CPU_PROVIDER,), on_missing="emulate"), graph)


def _quantized(
    source: Path,
    manifest: Manifest,
    accelerator: Accelerator,
    calibration: Calibration,
    report: Report,
    quantizer: Quantize,
) -> Quantized:
    chosen = range(calibration.count)
    feeds = (
        {name: array[:count] for name, array in arrays.items()}
        for count, arrays in padded_batches(calibration.encoded, chosen, manifest, accelerator.batch)
    )
    return quantizer(source, accelerator, feeds, report=report)


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
