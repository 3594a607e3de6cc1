"""``fieldtune-offline build``: from a model to a bundle."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fieldtune.cli.shared import JsonFlag, UsageError, new_table, print_json, print_tables, say
from fieldtune_offline.spec import BuildSpec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.bundle import Manifest, MergedSpec, PackedSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    r"""Turn a model into a bundle that devices adapt and serve.

    Every build ends by comparing loss, gradients and outputs with torch on stock ONNX Runtime; one that differs is not
    written.

    Examples:
      fieldtune-offline build ./minilm --task text-classification --labels negative positive --out artifacts/minilm
      fieldtune-offline build ./smollm2 --task text-generation --target-modules q_proj v_proj --out artifacts/smollm2
      fieldtune-offline build ./llama --task text-generation --target-modules all-linear --rank 16 --out artifacts/llama
      fieldtune-offline build ./minilm --task text-classification --ort-training --out artifacts/minilm
      fieldtune-offline build ./minilm --task text-classification --sequence 128 --split 2 --out artifacts/minilm
      fieldtune-offline build ./efficientnet --task image-classification --target-modules head --split auto \
          --target vek280 kv260 --calibration photos.jsonl --out artifacts/photos
      fieldtune-offline build ./minilm --task text-classification --base int4 --out artifacts/minilm-int4
      fieldtune-offline build ./minilm --task text-classification --adapter ./my-adapter --out artifacts/minilm-v2
    """

    spec: BuildSpec

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Build, console: "Console") -> int:
    """Build and print the figures of parity; return the exit code."""
    from fieldtune_offline.build import build_bundle
    from fieldtune_offline.methods.choosing import chosen_method
    from fieldtune_offline.precisions.table import chosen_precision
    from fieldtune_offline.spec_checks import checked_spec
    from fieldtune_offline.tasks.table import task_class

    try:
        checked_spec(command.spec, task_class(command.spec.task))
        chosen_method(command.spec)
        chosen_precision(command.spec.base)
    except ValueError as error:
        raise UsageError(str(error)) from error
    report = stage_printer(console)
    manifest = build_bundle(command.spec, report)
    report(f"written: {command.spec.out}")
    if command.as_json:
        facts = {"parity": manifest.parity, "parameters": manifest.layout.size, "targets": manifest.targets}
        print_json({"bundle": str(command.spec.out), **facts, "packed": manifest.base.packed})
    else:
        print_tables(*parity_tables(manifest))
    return 0


def stage_printer(console: "Console") -> "Callable[[str], None]":
    """Return what prints each stage of a command with the seconds since its start."""
    started = time.monotonic()

    def report(stage: str) -> None:
        say(console, f"{time.monotonic() - started:6.1f} s  {stage}")

    return report


def parity_tables(manifest: "Manifest") -> "list[Table]":
    """Return what a build measured as tables: parity of the graphs, then what packing, artifacts and targets bring."""
    tables = [_merge_parity_table(manifest) if manifest.merged else _parity_table(manifest)]
    if manifest.merged and manifest.merged.cost:
        tables.append(_merge_cost_table(manifest.merged))
    if manifest.base.packed and manifest.base.packed.cost:
        tables.append(_packing_table(manifest.base.packed))
    if manifest.ort_training:
        tables.append(ort_parity_table(manifest))
    if manifest.targets:
        tables.append(target_table(manifest))
    return tables


def target_table(manifest: "Manifest") -> "Table":
    """Return what quantizing for each target cost as a table."""
    columns = ("target", ">batch", ">calibrated on", "accuracy of", ">on", ">before", ">after", ">half up", ">boundary")
    table = new_table("Quantized prefixes", columns)
    for name, target in manifest.targets.items():
        accuracy = target.accuracy
        figures = ["-"] * 6
        if accuracy is not None:
            shares = (accuracy.before, accuracy.after, accuracy.after_half_up)
            accuracies = ["-" if share is None else f"{share:.1%}" for share in shares]
            figures = [accuracy.measure, str(accuracy.examples), *accuracies, f"{accuracy.boundary_snr_db:.1f} dB"]
        table.add_row(name, str(target.batch), str(target.calibration_examples), *figures)
    notes = [f"{name}: {target.unmeasured}" for name, target in manifest.targets.items() if target.unmeasured]
    table.caption = "\n".join(notes) or None
    return table


def _merge_parity_table(manifest: "Manifest") -> "Table":
    """Return the figures of a merge's parity as a table."""
    assert manifest.merged is not None
    title = "Largest differences from the graphs that take the adapter as inputs, relative"
    table = new_table(title, ("batch, sequence", "loss", "inference"))
    for record in manifest.merged.parity:
        figures = (record.loss_relative, record.inference_relative)
        table.add_row(_shape(record.batch, record.sequence), *(f"{figure:.1e}" for figure in figures))
    return table


def ort_parity_table(manifest: "Manifest") -> "Table":
    """Return the figures of the official artifacts' parity as a table."""
    artifacts = manifest.ort_training
    assert artifacts is not None
    title = f"ort_training (ONNX Runtime {artifacts.runtime}): largest differences from gradient.onnx, relative"
    table = new_table(title, ("batch, sequence", "loss", "gradients"))
    for record in artifacts.parity:
        figures = (record.loss_relative, record.gradient_relative)
        table.add_row(_shape(record.batch, record.sequence), *(f"{figure:.1e}" for figure in figures))
    return table


def _parity_table(manifest: "Manifest") -> "Table":
    """Return the figures of parity as a table."""
    columns = ("batch, sequence", "loss", "gradients", "inference")
    table = new_table("Largest differences from torch, relative", columns)
    for record in manifest.parity:
        figures = (record.loss_relative, record.gradient_relative, record.inference_relative)
        table.add_row(_shape(record.batch, record.sequence), *(f"{figure:.1e}" for figure in figures))
    vanishing = sorted({key for record in manifest.parity for key in record.vanishing_gradients})
    if vanishing:
        table.caption = f"Gradients that vanish in torch, too: {', '.join(vanishing)}"
    return table


def _packing_table(packed: "PackedSpec") -> "Table":
    """Return how far the packed base is from the one in float32 as a table."""
    columns = ("batch, sequence", ">loss in float32", ">loss packed", ">gradient cosine", ">outputs, relative")
    table = new_table(f"What packing the base costs ({packed.recipe})", columns)
    for cost in packed.cost:
        losses = f"{cost.loss:.4f}", f"{cost.packed_loss:.4f}"
        table.add_row(
            _shape(cost.batch, cost.sequence), *losses, f"{cost.gradient_cosine:.4f}", f"{cost.outputs_relative:.1e}"
        )
    return table


def _merge_cost_table(merged: "MergedSpec") -> "Table":
    """Return how far the merged bundle is from the packed one with the adapter beside it as a table."""
    columns = ("batch, sequence", ">loss with the adapter", ">loss merged", ">outputs, relative")
    table = new_table("What merging into the packed base changes", columns)
    for cost in merged.cost:
        losses = f"{cost.loss:.4f}", f"{cost.merged_loss:.4f}"
        table.add_row(_shape(cost.batch, cost.sequence), *losses, f"{cost.outputs_relative:.1e}")
    return table


def _shape(batch: int, sequence: int) -> str:
    return f"{batch}, {sequence or '-'}"  # images have no sequence
