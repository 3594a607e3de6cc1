"""merge_adapter: a bundle with an adapter folded into its weights, compared with the one that takes it as inputs."""

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fieldtune.adapters import TENSORS_NAME, adapter_labels, inference_inputs, read_adapter
from fieldtune.bundle import (
    ADAPTER_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Bundle,
    FloatArray,
    GraphSpec,
    Layout,
    Manifest,
    MergeCost,
    MergedSpec,
    MergeParitySpec,
    TaskSpec,
    file_spec,
    forward_graphs,
    open_bundle,
)
from fieldtune.bundle.manifest import FORMAT_VERSION
from fieldtune.data import static_shape
from fieldtune.errors import ExportError, UnsupportedModel
from fieldtune.files import output_folder
from fieldtune.tasks import open_task
from fieldtune_offline.accelerators.calibration_data import Calibration, read_calibration
from fieldtune_offline.accelerators.int8 import choose_quantizer
from fieldtune_offline.accelerators.prefixes import add_targets, load_targets
from fieldtune_offline.graph import Graph, packed_weights
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.node_table import node_table
from fieldtune_offline.ort_training.export import FOLDER as ORT_TRAINING
from fieldtune_offline.parity.merge import check_merge, check_packed, merge_cost
from fieldtune_offline.parity.unpacked import write_unpacked
from fieldtune_offline.passes.drop_adapter import drop_adapter
from fieldtune_offline.passes.merged_tensor import Fold, MergedTensor, held_tensor
from fieldtune_offline.passes.split_at_logits import check_cut, split_at_logits
from fieldtune_offline.passes.split_prefix import Split
from fieldtune_offline.passes.stand_ins import Repacked, leave_out, put_back, stand_in
from fieldtune_offline.progress import Report
from fieldtune_offline.spec import MergeSpec
from fieldtune_offline.spec_checks import check_calibration
from fieldtune_offline.versions import tool_version
from fieldtune_offline.weights import LazyTensor, bind_weights, write_lazy_weights

_TOOLS = ("fieldtune", "onnx-ir", "onnxruntime")
_UNPACKED = "unpacked"
"""Folder in the making with float32 weights, which are compared with."""
_LEFT_BEHIND = ("graphs/", f"{ADAPTER_NAME}/", f"{ORT_TRAINING}/")


def merge_adapter(spec: MergeSpec, report: Report = lambda _: None) -> Manifest:
    """Fold an adapter into a bundle's weights; return the manifest.

    Its heads, biases and label names take the place of the base's. No torch model is needed, and one weight at a time
    is in memory.

    Args:
        spec: which bundle, which adapter, and for which accelerators.
        report: called with one line at the start of each stage.

    Raises:
        ValueError: settings that exclude each other.
        InvalidBundle, InvalidAdapter: not a bundle, or not an adapter.
        AdapterMismatch: the adapter does not fit; every mismatch is listed.
        InvalidProfile: a target that is no hardware profile.
        InvalidData: calibration examples that cannot be used; every one is named, up to 20.
        ExportError: no such calibration examples, a target without an accelerator, or AMD Quark cannot be installed.
        UnsupportedModel: adapters of the bundle's method cannot be folded; or a target, and graphs that no accelerator
            takes.
        PlacementRefused: the accelerator of a target would refuse the quantized network; with the rules' names.
        ParityError: the merged graphs compute something else; nothing is left behind.
        OutputError: ``out`` exists, or cannot be written.
    """
    check_calibration(spec)
    targets = load_targets(spec.target)
    quantizer = choose_quantizer(spec.quantizer, report)
    source, adapter = open_bundle(spec.bundle), read_adapter(spec.adapter)
    fed = inference_inputs(adapter, source)
    packed = source.manifest.base.packed is not None
    if packed and targets and not spec.float32:
        raise UnsupportedModel(
            f"{spec.bundle}: its base is packed, and what a target runs is quantized from float32; add --float32"
        )
    _fold(source)
    task = dataclasses.replace(source.manifest.task, labels=adapter_labels(adapter, source.manifest))
    *_, served = (source.manifest.graphs[name] for name in forward_graphs(source.manifest))
    if targets:
        check_cut(served.inputs, served.outputs)
    kept = _kept(source.manifest)
    needed = sum(source.manifest.files[name].size_bytes for name in (WEIGHTS_NAME, *kept))
    with output_folder(spec.out, overwrite=spec.overwrite, marks=(MANIFEST_NAME,), needed_bytes=needed) as staging:
        calibration = _calibration(spec, source, served, task, report)
        report(f"folding {spec.adapter} into the weights")
        manifest = _write(source, fed, task, kept, staging, split=bool(targets), pack=packed and not spec.float32)
        report("comparing with the bundle that takes the adapter as inputs")
        parity, cost = _compared(source, fed, staging, manifest)
        merged = MergedSpec(
            adapter=spec.adapter.resolve().name,
            adapter_sha256=file_spec(spec.adapter / TENSORS_NAME).sha256,
            peft_config=adapter.config,
            base_sha256=source.manifest.base.sha256,
            parity=parity,
            cost=cost,
        )
        manifest = dataclasses.replace(manifest, merged=merged)
        if calibration is not None:
            manifest = add_targets(staging, manifest, targets, calibration, report, quantizer)
        (staging / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _calibration(
    spec: MergeSpec, source: Bundle, served: GraphSpec, task: TaskSpec, report: Report
) -> Calibration | None:
    """Read the calibration examples, which have the adapter's labels, before the minutes of a merge."""
    if spec.calibration is None:
        return None
    report(f"reading {spec.calibration}")
    _, sequence = static_shape(served.inputs)
    calibration = read_calibration(
        spec.calibration, open_task(source, task.labels), spec.calibration_examples, sequence
    )
    return dataclasses.replace(calibration, adapter={})


def _write(
    source: Bundle,
    fed: Mapping[str, FloatArray],
    task: TaskSpec,
    kept: Sequence[str],
    staging: Path,
    *,
    split: bool,
    pack: bool,
) -> Manifest:
    """Write the merged graphs, their weights and the files that are kept; return the manifest of what is there then."""
    graphs, digest = _merged_graphs(source, fed, staging, pack=pack)
    cut = split_at_logits(*graphs) if split else None
    graphs += cut.graphs if cut else ()
    _write_graphs(graphs, staging / WEIGHTS_NAME)
    for name in kept:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source.root / name, staging / name)
    return _manifest(source.manifest, task, digest, graphs, cut, staging, pack=pack)


def _kept(manifest: Manifest) -> list[str]:
    """Return the files that are the merged bundle's, too: the tokenizer, and whatever else stands beside the graphs."""
    references = {target.reference for target in manifest.targets.values()}
    return [name for name in manifest.files if not name.startswith(_LEFT_BEHIND) and name not in references]


def _compared(
    source: Bundle, fed: Mapping[str, FloatArray], staging: Path, manifest: Manifest
) -> tuple[tuple[MergeParitySpec, ...], tuple[MergeCost, ...]]:
    """Compare a merge with what it was made from; return the figures.

    Of a packed base, fold and packing are told apart: float32 weights are compared with the unpacked ones.
    """
    if source.manifest.base.packed is None:
        return check_merge(source, fed, staging, manifest), ()
    folder = staging / _UNPACKED
    plain = Bundle(folder / "source", source.manifest)
    _write_unpacked(source, plain.root)
    if manifest.base.packed is None:
        parity = check_merge(plain, fed, staging, manifest)
    else:
        _merged_graphs_written(source, fed, folder / "merged")
        parity = check_merge(plain, fed, folder / "merged", manifest)
        shutil.rmtree(folder / "merged")
        made = Bundle(staging, manifest)
        again = Bundle(folder / "again", manifest)
        _write_unpacked(made, again.root)
        check_packed((source, plain), fed, (made, again))
    shutil.rmtree(folder)
    return parity, merge_cost(source, fed, staging, manifest)


def _write_unpacked(packed: Bundle, root: Path) -> None:
    """Write the forward graphs of a packed bundle with products of the unpacked matrices, beside a tokenizer."""
    write_unpacked(packed, forward_graphs(packed.manifest), root)
    if packed.manifest.text is not None:
        shutil.copy2(packed.tokenizer_path, root)


def _merged_graphs_written(source: Bundle, fed: Mapping[str, FloatArray], root: Path) -> None:
    """Write the merged graphs with float32 weights, to be compared."""
    graphs, _ = _merged_graphs(source, fed, root, pack=False)
    _write_graphs(graphs, root / WEIGHTS_NAME)


def _merged_graphs(
    opened: Bundle, fed: Mapping[str, FloatArray], staging: Path, *, pack: bool
) -> tuple[list[Graph], str]:
    """Write the weights; return the graphs that are bound to them, and the digest of the weights.

    They are those that go forward only: nothing is left in a merged bundle that a gradient graph could train. What was
    packed is packed anew, or stays float32.
    """
    fold = _fold(opened)
    graphs: list[Graph] = []
    sources: dict[str, MergedTensor] = {}
    matrices: dict[str, Repacked] = {}
    for name, model in _forward_models(opened):
        stand_ins = stand_in(model, _recipes(opened.manifest), loops=not pack)
        for tensor in drop_adapter(model, opened.manifest.layout, fold):
            _add(sources, tensor)
        if pack:
            matrices |= {repacked.weight: repacked for repacked in put_back(model, stand_ins)}
        else:
            leave_out(model, stand_ins)
        graphs.append(_taken(opened.manifest, name, model, sources))
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in sources.items():
        tensors |= _packed_anew(tensor, matrices[name], fed) if name in matrices else {name: _lazy(tensor, fed)}
    _write_weights(graphs, staging / WEIGHTS_NAME, tensors)
    return graphs, _digest(tensors)


def _forward_models(opened: Bundle) -> Iterator[tuple[str, ir.Model]]:
    for name in forward_graphs(opened.manifest):
        yield name, ir.load(opened.graph_path(name))


def _recipes(manifest: Manifest) -> Mapping[str, str]:
    return {} if manifest.base.packed is None else manifest.base.packed.matrices


def _taken(manifest: Manifest, name: str, model: ir.Model, sources: dict[str, MergedTensor]) -> Graph:
    """Return a graph in the making, and add the weights that it takes over to those that are to be written."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor | ir.LazyTensor):
            _add(sources, held_tensor(value))
    spec = manifest.graphs[name]
    return Graph(name, model, spec.inputs, spec.outputs, (), {}, ())


def _write_weights(graphs: Sequence[Graph], path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Write the weights, and bind graphs to them."""
    path.parent.mkdir(parents=True)
    slots = write_lazy_weights(path, tensors)
    for graph in graphs:
        held = graph.model.graph.initializers.values()
        bind_weights((value for value in held if value.name in slots), slots, path)


def _packed_anew(tensor: MergedTensor, packed: Repacked, fed: Mapping[str, FloatArray]) -> dict[str, LazyTensor]:
    """Return the parts of a merged matrix; one that is asked for a part after the other is packed once."""
    names = packed.precision.part_names

    @functools.lru_cache(maxsize=1)
    def parts() -> dict[str, npt.NDArray[Any]]:
        matrix = torch.from_numpy(np.ascontiguousarray(tensor.values(fed)))
        return {name: part.numpy() for name, part in zip(names, packed.precision.pack(matrix), strict=True)}

    made: dict[str, LazyTensor] = {}
    for name, value in packed.parts.items():
        assert value.shape is not None
        assert value.dtype is not None
        make = functools.partial(lambda name: parts()[name], name)
        made[str(value.name)] = LazyTensor(value.dtype, tuple(value.shape.numpy()), make)
    return made


def _fold(source: Bundle) -> Fold:
    """Return what takes adapters of a bundle's method out of its graphs."""
    method = method_named(source.manifest.method)
    if method.fold is None:
        raise UnsupportedModel(
            f"{source.root}: adapts by {method.title}, whose adapters cannot be folded into weights here; serve the "
            "bundle with the adapter beside it, or merge the adapter with PEFT and build a bundle from the merged model"
        )
    return method.fold


def _write_graphs(graphs: Sequence[Graph], weights: Path) -> None:
    """Write graphs beside the weights that they are bound to, with their node tables."""
    for graph in graphs:
        graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
        ir.save(graph.model, weights.with_name(f"{graph.name}.onnx"))
        weights.with_name(f"{graph.name}.nodes.json").write_text(node_table(graph.model), encoding="utf-8")


def _add(sources: dict[str, MergedTensor], tensor: MergedTensor) -> None:
    known = sources.setdefault(tensor.name, tensor)
    if _identity(known) != _identity(tensor):
        raise ExportError(f"{tensor.name}: is merged in one graph and not in the other; build the bundle again")


def _identity(tensor: MergedTensor) -> tuple[object, ...]:
    held = tensor.held
    place = (held.offset, held.length) if isinstance(held, ir.ExternalTensor) else held is None
    return place, tensor.key, tensor.update


def _lazy(tensor: MergedTensor, fed: Mapping[str, FloatArray]) -> LazyTensor:
    dtype = ir.DataType.FLOAT if tensor.held is None else tensor.held.dtype
    return LazyTensor(dtype, tensor.shape, lambda: tensor.values(fed))


def _digest(tensors: Mapping[str, LazyTensor]) -> str:
    """Return the digest over names, dtypes, shapes and bytes, in the form of a base's."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = np.ascontiguousarray(tensor.make())
        digest.update(f"{name} torch.{array.dtype} {tensor.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _manifest(
    manifest: Manifest,
    task: TaskSpec,
    digest: str,
    graphs: Sequence[Graph],
    split: Split | None,
    staging: Path,
    *,
    pack: bool,
) -> Manifest:
    """Return the manifest of what is in the staging folder, from that of the bundle that it was merged from."""
    paths = sorted(path for path in staging.rglob("*") if path.is_file())
    packed = manifest.base.packed
    # What packing cost was measured against the base before the adapter was in it.
    packed = dataclasses.replace(packed, cost=()) if packed is not None and pack else None
    return dataclasses.replace(
        manifest,
        base=dataclasses.replace(manifest.base, sha256=digest, dtypes={}, packed=packed),
        task=task,
        peft_config={},
        layout=Layout(()),
        graphs={graph.name: graph.spec("graphs") for graph in graphs},
        parity=(),
        tools={**manifest.tools, **{name: tool_version(name) for name in _TOOLS}},
        files={str(path.relative_to(staging)): file_spec(path) for path in paths},
        ort_training=None,
        split=split.spec if split else None,
        targets={},
        format_version=FORMAT_VERSION,
    )
