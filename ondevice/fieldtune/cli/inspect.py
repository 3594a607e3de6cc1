"""``fieldtune inspect``: what is in a bundle, an adapter or a hardware profile."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fieldtune.cli.shared import JsonFlag, new_table, print_json, print_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.adapters import Adapter
    from fieldtune.bundle import (
        Bundle,
        GraphSpec,
        ImageSpec,
        Manifest,
        MergeParitySpec,
        PackedSpec,
        ParitySpec,
        TensorSpec,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show what is in a bundle (after checking every file of it), an adapter or a hardware profile.

    Examples:
      fieldtune inspect BUNDLE
      fieldtune inspect adapter --json
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """Folder of a bundle or an adapter; file or name of a hardware profile."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""


def run(command: Inspect, _console: "Console") -> int:
    """Print what is there; return the exit code."""
    from fieldtune.adapters import CONFIG_NAME, read_adapter
    from fieldtune.bundle import MANIFEST_NAME, open_bundle
    from fieldtune.cli.profiles import profile_tables
    from fieldtune.errors import FieldtuneError
    from fieldtune.hardware import load_profile, profile_names

    path = Path(command.path)
    facts: object
    if (path / MANIFEST_NAME).is_file():
        bundle = open_bundle(path)
        facts = _bundle_facts(bundle)
        tables = [] if command.as_json else _bundle_tables(bundle, facts)
    elif (path / CONFIG_NAME).is_file():
        facts = _adapter_facts(read_adapter(path))
        tables = [] if command.as_json else _adapter_tables(facts)
    elif command.path.endswith(".toml") or command.path in profile_names():
        profile = load_profile(command.path)
        facts = {"kind": "profile", "profile": profile}
        tables = [] if command.as_json else profile_tables(profile)
    else:
        reason = f"neither {MANIFEST_NAME} nor {CONFIG_NAME} is in it" if path.is_dir() else "no such folder or profile"
        raise FieldtuneError(f"{command.path}: not a bundle, an adapter or a hardware profile ({reason})")
    if command.as_json:
        print_json(facts)
    else:
        print_tables(*tables)
    return 0


def _bundle_facts(bundle: "Bundle") -> dict[str, Any]:
    """Return what a bundle holds, its files verified, for machines."""
    from fieldtune.adapters import method_named

    manifest = bundle.manifest
    method = method_named(manifest.method, str(bundle.root))
    return {
        "kind": "bundle",
        "path": bundle.root,
        "format_version": manifest.format_version,
        "base": manifest.base,
        "task": manifest.task,
        "text": manifest.text
        and {"max_length": manifest.text.max_length, "chat_template": manifest.text.chat_template is not None},
        "image": manifest.image,
        "method": manifest.method,
        "adapter": method.settings(manifest.peft_config),
        "parameters": manifest.layout.size,
        "graphs": {
            name: {
                "opset": graph.opset,
                "ir_version": graph.ir_version,
                "min_ort": graph.min_ort,
                "inputs": graph.inputs,
                "outputs": graph.outputs,
                "adapter_inputs": len(graph.adapter_inputs),
                "operators": _operators(bundle, graph),
            }
            for name, graph in manifest.graphs.items()
        },
        "parity": manifest.parity,
        "merged": manifest.merged,
        "ort_training": manifest.ort_training,
        "tools": manifest.tools,
        "files": manifest.files,
        "size_bytes": sum(spec.size_bytes for spec in manifest.files.values()),
    }


def _adapter_facts(adapter: "Adapter") -> dict[str, Any]:
    """Return what an adapter is, for machines."""
    from fieldtune.adapters import method_of

    card, tensors = adapter.card, adapter.tensors.tensors
    method = method_of(adapter.config)
    assert method is not None  # read_adapter refuses any other
    return {
        "kind": "adapter",
        "path": adapter.where,
        "base": adapter.config.get("base_model_name_or_path"),
        "base_sha256": card.base_sha256 if card else None,
        "task": card.task if card else adapter.config.get("task_type"),
        "labels": card.labels if card else (),
        "method": method.name,
        "adapter": method.settings(adapter.config),
        "tensors": len(tensors),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors.values()),
        "dtypes": dict(Counter(tensor.dtype for tensor in tensors.values())),
        "size_bytes": sum(len(tensor.data) for tensor in tensors.values()),
        "training": card.training if card else None,
    }


def _operators(bundle: "Bundle", graph: "GraphSpec") -> dict[str, int]:
    from fieldtune.errors import CorruptFile

    path = bundle.root / graph.nodes
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
        return dict(Counter(node["op"] for node in nodes).most_common())
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path}: not a node table ({error}); build the bundle again") from error


def _bundle_tables(bundle: "Bundle", facts: Mapping[str, Any]) -> "list[Table]":
    from fieldtune.adapters import method_named

    manifest = bundle.manifest
    top = new_table(f"Bundle {bundle.root}")
    top.add_row("base model", manifest.base.id)
    top.add_row("architecture", manifest.base.architecture)
    top.add_row("base precision", _precision(manifest.base.packed))
    if manifest.base.packed and _multiplies_integers(bundle):
        top.add_row("products of integers", _integer_kernels())
    top.add_row("licence", manifest.base.licence or "not known")
    top.add_row("task", manifest.task.name)
    if manifest.task.labels:
        top.add_row("labels", ", ".join(manifest.task.labels))
    if manifest.text:
        top.add_row("longest text", f"{manifest.text.max_length} tokens")
    if manifest.image:
        _add_image(top, manifest.image)
    method = method_named(manifest.method)
    top.add_row("method", method.title)
    _add_settings(top, facts["adapter"])
    if manifest.merged:
        top.add_row("merged adapter", f"{manifest.merged.adapter} (sha256 {manifest.merged.adapter_sha256[:12]}…)")
        _add_settings(top, method.settings(manifest.merged.peft_config))
    top.add_row("trainable parameters", f"{manifest.layout.size:,}")
    top.add_row("files", f"{len(manifest.files)}, {facts['size_bytes'] / 1e6:.1f} MB; every digest is right")
    if manifest.ort_training:
        top.add_row("official training artifacts", f"for ONNX Runtime's training API {manifest.ort_training.runtime}")
    top.add_row("built with", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()))
    tables = [top, _graphs_table(facts["graphs"])]
    tables += [_graph_table(name, graph, facts["graphs"][name]) for name, graph in manifest.graphs.items()]
    return [*tables, _parity_table(manifest)]


def _precision(packed: "PackedSpec | None") -> str:
    if packed is None:
        return "float32"
    counts = Counter(packed.matrices.values())
    parts = ", ".join(f"{count} as {recipe}" for recipe, count in counts.most_common())
    kept = f"; {len(packed.kept)} in float32" if packed.kept else ""
    return f"{packed.recipe}; {len(packed.matrices)} matrices packed: {parts}{kept}"


def _multiplies_integers(bundle: "Bundle") -> bool:
    from fieldtune.bundle import read_node_table
    from fieldtune.preflight import multiplies_integers

    tables = (read_node_table(bundle.root / graph.nodes) for graph in bundle.manifest.graphs.values())
    return any(multiplies_integers(table, node) for table in tables for node in table.nodes)


def _integer_kernels() -> str:
    """Return what this machine does with products of integers."""
    from fieldtune.hardware import CpuSpec, instruction_sets, integer_kernels, kernel_advice, machine_facts

    arm = machine_facts().architecture == "aarch64"
    kernels = integer_kernels(CpuSpec(architecture="aarch64" if arm else "any", features=instruction_sets()))
    return kernel_advice(kernels) or f"fast kernels here: this CPU {kernels.why}"


def _parity_table(manifest: "Manifest") -> "Table":
    columns = (">batch", ">tokens", ">loss, relative")
    largest = ">inference, of the largest"
    if manifest.merged:
        parity = new_table("Largest differences from the graphs that it was merged from", (*columns, largest))
        for merged in manifest.merged.parity:
            _add_figures(parity, manifest, merged, (merged.loss_relative, merged.inference_relative))
        return parity
    gradient = ">gradient, of its tensor's largest"
    parity = new_table("Largest differences from torch at the build", (*columns, gradient, largest))
    for built in manifest.parity:
        figures = (built.loss_relative, built.gradient_relative, built.inference_relative)
        _add_figures(parity, manifest, built, figures)
    return parity


def _add_figures(
    table: "Table", manifest: "Manifest", record: "ParitySpec | MergeParitySpec", figures: tuple[float, ...]
) -> None:
    # Images have no sequence.
    tokens = str(record.sequence) if manifest.text else "-"
    table.add_row(str(record.batch), tokens, *(f"{figure:.1e}" for figure in figures))


def _graphs_table(graphs: Mapping[str, Any]) -> "Table":
    table = new_table("Graphs", ("name", ">opset", ">IR", "ONNX Runtime", ">nodes", "most frequent operators"))
    for name, graph in graphs.items():
        operators: dict[str, int] = graph["operators"]
        frequent = ", ".join(f"{count} {op}" for op, count in list(operators.items())[:6])
        versions = str(graph["opset"]), str(graph["ir_version"]), f"≥ {graph['min_ort']}"
        table.add_row(name, *versions, str(sum(operators.values())), frequent)
    return table


def _graph_table(name: str, graph: "GraphSpec", facts: Mapping[str, Any]) -> "Table":
    table = new_table(f"{name}: inputs and outputs", ("", "name", "dtype", "shape"))
    for kind, specs in (("in", graph.inputs), ("out", graph.outputs)):
        # A language model's cache is two tensors a layer, all alike.
        for spec, more in _folded(specs):
            table.add_row(kind, spec.name + more, spec.dtype, _shape(spec))
    if facts["adapter_inputs"]:
        table.add_row("in", f"{facts['adapter_inputs']} adapter tensors, which have defaults", "float32", "any rank")
    return table


def _folded(specs: "tuple[TensorSpec, ...]") -> "list[tuple[TensorSpec, str]]":
    cache = [spec for spec in specs if ".key" in spec.name or ".value" in spec.name]
    shown = [(spec, "") for spec in specs if spec not in cache]
    return shown + ([(cache[0], f" and {len(cache) - 1} more")] if cache else [])


def _adapter_tables(facts: Mapping[str, Any]) -> "list[Table]":
    from fieldtune.adapters import method_named

    table = new_table(f"Adapter {facts['path']}")
    table.add_row("base model", str(facts["base"] or "not known"))
    table.add_row("task", str(facts["task"] or "not known"))
    if facts["labels"]:
        table.add_row("labels", ", ".join(facts["labels"]))
    table.add_row("method", method_named(facts["method"]).title)
    _add_settings(table, facts["adapter"])
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in facts["dtypes"].items())
    table.add_row("tensors", f"{facts['tensors']} ({dtypes})")
    table.add_row("parameters", f"{facts['parameters']:,}, {facts['size_bytes'] / 1e6:.2f} MB")
    if not facts["training"]:
        return [table]
    training = new_table("Training")
    for key, value in facts["training"].items():
        training.add_row(str(key), str(value))
    return [table, training]


def _add_settings(table: "Table", settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if value is not None:
            table.add_row(key, ", ".join(dict.fromkeys(map(str, value))) if isinstance(value, list) else str(value))


def _add_image(table: "Table", image: "ImageSpec") -> None:
    edges = "both edges" if image.resize is None else f"shorter edge to {image.resize}, then cut around the centre"
    colours = "grey" if image.channels == 1 else "RGB"
    table.add_row("images", f"{image.height} pixels high, {image.width} wide, {colours}")
    table.add_row("resized", f"{edges}; {image.resample}")
    table.add_row("mean of each channel", ", ".join(f"{value:g}" for value in image.mean))
    table.add_row("std of each channel", ", ".join(f"{value:g}" for value in image.std))


def _shape(spec: "TensorSpec") -> str:
    return f"({', '.join(map(str, spec.shape))})"
