"""build_bundle: one straight line from a model to a verified bundle, written beside its place, then renamed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from fieldtune.adapters import Adapter, inference_inputs, read_adapter
from fieldtune.bundle import (
    ADAPTER_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    BaseModelSpec,
    Bundle,
    Layout,
    Manifest,
    PackedSpec,
    ParitySpec,
    TaskSpec,
    TextSpec,
    file_spec,
)
from fieldtune.errors import ParityError, UnsupportedModel
from fieldtune.files import output_folder
from fieldtune.tasks import Task as DeviceTask
from fieldtune.tasks import new_task
from fieldtune_offline.accelerators.calibration_data import Calibration, read_calibration
from fieldtune_offline.accelerators.int8 import choose_quantizer
from fieldtune_offline.accelerators.prefixes import add_targets, load_targets
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.graph import Graph, packed_weights
from fieldtune_offline.graphs import adapted_graph, gradient_graph
from fieldtune_offline.methods.adapting import adapt, with_weights_named
from fieldtune_offline.methods.choosing import chosen_method
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.modalities.text import text_spec
from fieldtune_offline.models import BaseModel, load_base
from fieldtune_offline.node_table import node_table
from fieldtune_offline.ort_training.export import add_ort_training, check_method, training_python
from fieldtune_offline.parity.packing_cost import packing_cost, torch_answers
from fieldtune_offline.parity.products import check_products, products_of
from fieldtune_offline.parity.split import check_split
from fieldtune_offline.parity.whole import Sessions, check_parity
from fieldtune_offline.passes.split_prefix import Split, split_prefix
from fieldtune_offline.precisions.holding import exchange, held_matrix, matrix_layers, release_all, release_trained
from fieldtune_offline.precisions.interface import Precision
from fieldtune_offline.precisions.operators import unpacked_products
from fieldtune_offline.precisions.packing import pack_base
from fieldtune_offline.precisions.quantized_checkpoints import quantized_recipe
from fieldtune_offline.precisions.table import chosen_precision
from fieldtune_offline.progress import Report, counted
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.spec_checks import checked_spec
from fieldtune_offline.tasks.interface import GRADIENT, Part, Task
from fieldtune_offline.tasks.table import task_class
from fieldtune_offline.tracing import TracedForward, TracedGradient, trace_adapted, trace_gradient
from fieldtune_offline.versions import tool_version
from fieldtune_offline.weights import Scratch, Slot, bind_weights, mapped_tensor, write_weights

_SCRATCH_NAME = ".packed"
_TRACE_SHAPE = (3, 10)
_PARITY_SHAPES = ((3, 17), (2, 34))
_MOST_LABELS_SHOWN = 10
_SAID = {GRADIENT: "training", "eval": "evaluation", "infer": "inference"}
_TOOLS = ("fieldtune", "torch", "transformers", "peft", "onnx-ir", "onnxruntime")


def build_bundle(spec: BuildSpec, report: Report = lambda _: None) -> Manifest:
    """Build a bundle and return its manifest.

    Args:
        spec: what to build.
        report: called with one line at the start of each stage.

    Raises:
        ValueError: a size that is too small, a method that is unknown, or settings that exclude each other.
        UnsupportedModel: a model, task or adapter setting that is not supported.
        InvalidAdapter: ``spec.adapter`` is not a PEFT adapter for this base.
        InvalidProfile: a target that is no hardware profile.
        InvalidData: calibration examples that cannot be used; every one is named, up to 20.
        ExportError: no such calibration examples, a target without an accelerator, or an environment (of the official
            artifacts, or of AMD Quark) that cannot be made.
        PlacementRefused: the accelerator of a target would refuse the quantized prefix; with the rules' names.
        ParityError: the graphs do not compute what torch computes; nothing is left behind.
        OutputError: ``out`` exists, or cannot be written.
    """
    kind = task_class(spec.task)
    precision = chosen_precision(spec.base, quantized_recipe(Path(spec.model)))
    if precision is not None:
        spec = dataclasses.replace(spec, base=dataclasses.replace(spec.base, name=precision.name))
    spec = checked_spec(spec, kind)
    targets = load_targets(spec.target)
    method = chosen_method(spec)
    if spec.ort_training:
        check_method(method, spec.model)
    # What could be missing on this machine shows before the minutes of a build.
    training = training_python(report) if spec.ort_training else None
    quantizer = choose_quantizer(spec.quantizer, report)
    with output_folder(spec.out, overwrite=spec.overwrite, marks=(MANIFEST_NAME,)) as staging:
        base = _load(spec, kind, report, held=precision is not None)
        text = _text(base, spec)
        task_spec = TaskSpec(name=kind.name, labels=kind.labels_of(base.model.config))
        if base.tokenizer is not None:
            base.tokenizer.backend_tokenizer.save(str(staging / TOKENIZER_NAME))
        told = new_task(task_spec, text=text, image=base.image, tokenizer_path=staging / TOKENIZER_NAME)
        calibration = _calibration(spec, told, report)
        adapted = _adapted(base, spec, kind, packs=precision is not None)
        task = kind(adapted.model, base.image)
        shapes = _parity_shapes(spec, base)
        packed = _packed(spec, adapted, task, shapes, precision, staging, report) if precision else None
        traced = _trace(spec, adapted, task, report)
        graphs = _lowered(spec, traced, adapted, unpacked=False)
        split = _split(spec, graphs, report)
        graphs += split.graphs if split else ()
        report("writing weights and graphs")
        # Before packed layers map their parts from the file.
        layout = with_weights_named(adapted, {name: held for graph in graphs for name, held in graph.weights.items()})
        slots = _write(staging, graphs, adapted)
        manifest = _manifest(task_spec, base, packed, adapted, layout, text, graphs, split, staging)
        report("comparing with torch on stock ONNX Runtime")
        initial = read_adapter(staging / ADAPTER_NAME)
        made = Bundle(staging, manifest)
        if any(products_of(graph) for graph in graphs):
            unpacked = _unpacked(spec, traced, adapted, split)
            parity = _compared_unpacked(made, slots, unpacked, adapted, task, initial, shapes)
            check_products(made, graphs, adapted, task, initial, shapes[0])
        else:
            parity = _compared(made, adapted, task, initial, shapes)
        manifest = dataclasses.replace(manifest, parity=parity)
        if calibration is not None:
            if spec.adapter is not None or not base.new_modules:
                calibration = dataclasses.replace(
                    calibration, adapter=inference_inputs(initial, Bundle(staging, manifest))
                )
            manifest = add_targets(staging, manifest, targets, calibration, report, quantizer)
        if training:
            manifest = add_ort_training(staging, manifest, initial, training, report)
        (staging / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _load(spec: BuildSpec, task: type[Task], report: Report, *, held: bool) -> BaseModel:
    report(f"loading {spec.model}")
    base = load_base(spec, task, held=held)
    if base.new_modules:
        report(f"new, saved with the adapter: {', '.join(base.new_modules)}")
    if task.labelled:
        report(f"labels: {_shown(task.labels_of(base.model.config))}")
    return base


def _text(base: BaseModel, spec: BuildSpec) -> TextSpec | None:
    if base.tokenizer is not None:
        return text_spec(base.model, base.tokenizer, spec.model, spec.sequence)
    if spec.sequence is not None:
        raise UnsupportedModel(f"{spec.model}: images have no sequence; leave --sequence out")
    return None


def _calibration(spec: BuildSpec, task: DeviceTask, report: Report) -> Calibration | None:
    """Read the calibration examples before the minutes of a build, as the device's half of the task reads them."""
    if spec.calibration is None:
        return None
    report(f"reading {spec.calibration}")
    return read_calibration(spec.calibration, task, spec.calibration_examples, spec.sequence)


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LABELS_SHOWN
    return ", ".join(names[:_MOST_LABELS_SHOWN]) + (f", … and {more} more" if more > 0 else "")


def _adapted(base: BaseModel, spec: BuildSpec, task: type[Task], *, packs: bool) -> Adapted:
    """Put the adapter on the base, whose layers hold their matrices as they are stored; all but frozen ones let go."""
    adapted = adapt(base, spec, task)
    (release_trained if packs else release_all)(adapted.model)
    if spec.adapter is None:
        method_named(adapted.method).start(adapted.model)
    return adapted


def _packed(
    spec: BuildSpec,
    adapted: Adapted,
    task: Task,
    shapes: list[tuple[int, int]],
    precision: Precision,
    staging: Path,
    report: Report,
) -> PackedSpec:
    """Pack the frozen base, and say what that costs."""
    report("computing with the base in float32")
    before = torch_answers(adapted, task, shapes, counted(report, "computed"))
    report(f"packing the base ({precision.recipe})")
    keep = Scratch(staging / _SCRATCH_NAME).keep
    packing = pack_base(adapted.model, precision, counted(report, "packed"), keep)
    if spec.adapter is None:
        method_named(adapted.method).start(adapted.model)
    kept = ", ".join(f"{name} ({reason})" for name, reason in packing.kept.items())
    report(f"packed: {len(packing.matrices)} matrices" + (f"; in float32 stay {kept}" if kept else ""))
    report("computing with the packed base")
    after = torch_answers(adapted, task, shapes, counted(report, "computed"))
    cost = packing_cost(shapes, before, after)
    return PackedSpec(recipe=packing.recipe, matrices=packing.matrices, kept=packing.kept, cost=cost)


_Traced: TypeAlias = "dict[str, TracedGradient | TracedForward | Part]"


def _trace(spec: BuildSpec, adapted: Adapted, task: Task, report: Report) -> _Traced:
    static = frozenset(name for name in ("batch", "sequence") if getattr(spec, name) is not None)
    batch, sequence = spec.batch or _TRACE_SHAPE[0], spec.sequence or _TRACE_SHAPE[1]
    traced: _Traced = {}
    for name, source in task.graphs(batch, sequence).items():
        if isinstance(source, Part):
            traced[name] = source
            continue
        report(f"tracing the {_SAID.get(name, name)} graph")
        fixed = frozenset[str]() if source.varies else static
        traced[name] = (trace_gradient if name == GRADIENT else trace_adapted)(source, adapted, fixed)
    return traced


def _lowered(spec: BuildSpec, traced: _Traced, adapted: Adapted, *, unpacked: bool) -> list[Graph]:
    graphs: list[Graph] = []
    # A graph that is cut has to compute the frozen part as the training graph does.
    serves = spec.split == "none"
    for name, program in traced.items():
        if isinstance(program, TracedGradient):
            graphs.append(gradient_graph(program, adapted, unpacked=unpacked))
        else:
            part = program if isinstance(program, Part) else None
            whole = program if part is None else traced[part.of]
            assert isinstance(whole, TracedForward)
            graphs.append(adapted_graph(name, whole, part, serving=serves and name != "eval", unpacked=unpacked))
    return graphs


def _split(spec: BuildSpec, graphs: Sequence[Graph], report: Report) -> Split | None:
    if spec.split == "none":
        return None
    report("cutting the frozen prefix off")
    gradient, *others = graphs
    split = split_prefix(gradient, others)
    carried = ", ".join(f"{tensor.name} {tensor.shape[1:]}" for tensor in split.spec.boundary)
    report(f"carried across the boundary for each sample: {carried}")
    return split


def _unpacked(spec: BuildSpec, traced: _Traced, adapted: Adapted, split: Split | None) -> list[Graph]:
    """Return the graphs with unpacked matrices, and their parts, which are cut where those that were written are."""
    graphs = _lowered(spec, traced, adapted, unpacked=True)
    if split is None:
        return graphs
    gradient, *others = graphs
    found = split_prefix(gradient, others)
    if found.spec != split.spec or found.computed_by != split.computed_by:
        raise ParityError(
            "with unpacked matrices the frozen part would be cut off elsewhere, so that it cannot be compared with "
            "torch; build without --split"
        )
    return [*graphs, *found.graphs]


def _compared(
    bundle: Bundle, adapted: Adapted, task: Task, initial: Adapter, shapes: list[tuple[int, int]]
) -> tuple[ParitySpec, ...]:
    parity = check_parity(_sessions(bundle, bundle.root / "graphs"), adapted, task, bundle, initial, shapes)
    if bundle.manifest.split is not None:
        check_split(bundle, adapted, task, initial, shapes)
    return parity


def _sessions(bundle: Bundle, folder: Path) -> Sessions:
    """Open the graphs of a folder as the bundle has them; those of a packed base need little memory for it."""
    manifest = bundle.manifest
    in_order = [name for name, graph in manifest.graphs.items() if graph.in_order]
    return Sessions(folder, in_order, lean=manifest.base.packed is not None)


def _compared_unpacked(
    made: Bundle,
    slots: Mapping[str, Slot],
    graphs: list[Graph],
    adapted: Adapted,
    task: Task,
    initial: Adapter,
    shapes: list[tuple[int, int]],
) -> tuple[ParitySpec, ...]:
    """Compare graphs that have products of unpacked matrices in place of those of integers."""
    folder = made.root / "unpacked"
    folder.mkdir()
    # A second name in the same folder: ONNX Runtime refuses weights outside the graph's own.
    os.link(made.root / WEIGHTS_NAME, folder / Path(WEIGHTS_NAME).name)
    for graph in graphs:
        _save(graph, slots, folder)
    with unpacked_products():
        parity = check_parity(_sessions(made, folder), adapted, task, made, initial, shapes)
        if made.manifest.split is not None:
            check_split(made, adapted, task, initial, shapes, folder)
    shutil.rmtree(folder)
    return parity


def _parity_shapes(spec: BuildSpec, base: BaseModel) -> list[tuple[int, int]]:
    shapes = [(spec.batch or batch, spec.sequence or sequence) for batch, sequence in _PARITY_SHAPES]
    if base.image is not None:
        shapes = [(batch, 0) for batch, _ in shapes]
    return list(dict.fromkeys(shapes))


def _write(staging: Path, graphs: list[Graph], adapted: Adapted) -> dict[str, Slot]:
    """Write weights, graphs and adapter; return where each weight lies."""
    folder = staging / "graphs"
    folder.mkdir()
    weights_path = staging / WEIGHTS_NAME
    tensors = {name: tensor for graph in graphs for name, tensor in graph.weights.items()}
    slots = write_weights(weights_path, tensors)
    _map_from(weights_path, adapted, {tensor.data_ptr(): slots[name] for name, tensor in tensors.items()})
    (staging / _SCRATCH_NAME).unlink(missing_ok=True)
    for graph in graphs:
        _save(graph, slots, folder)
        (folder / f"{graph.name}.nodes.json").write_text(node_table(graph.model), encoding="utf-8")
    with quiet_loading():
        adapted.model.save_pretrained(str(staging / ADAPTER_NAME), save_embedding_layers=False)
    for name in ("README.md",):
        # PEFT's card is a form to fill in; the manifest says what there is to say.
        (staging / ADAPTER_NAME / name).unlink(missing_ok=True)
    return slots


def _map_from(path: Path, adapted: Adapted, slots: Mapping[int, Slot]) -> None:
    """Let packed layers map their parts from the bundle, where ONNX Runtime does, too; others are not in it."""
    for _, layer in matrix_layers(adapted.model):
        matrix = held_matrix(layer)
        if matrix is not None and all(part.data_ptr() in slots for part in matrix.parts):
            parts = tuple(mapped_tensor(path, slots[part.data_ptr()]) for part in matrix.parts)
            exchange(layer, dataclasses.replace(matrix, parts=parts))


def _save(graph: Graph, slots: Mapping[str, Slot], folder: Path) -> None:
    """Write one graph beside the weights."""
    bind_weights(graph.unbound, slots, folder / Path(WEIGHTS_NAME).name)
    # Inputs with defaults: a constant would be unpacked when the graph is loaded, and kept beside the packed one.
    graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
    ir.save(graph.model, folder / f"{graph.name}.onnx")


def _manifest(
    task: TaskSpec,
    base: BaseModel,
    packed: PackedSpec | None,
    adapted: Adapted,
    layout: Layout,
    text: TextSpec | None,
    graphs: list[Graph],
    split: Split | None,
    staging: Path,
) -> Manifest:
    files = {str(path.relative_to(staging)): file_spec(path) for path in sorted(staging.rglob("*")) if path.is_file()}
    peft_config = json.loads((staging / ADAPTER_NAME / "adapter_config.json").read_text(encoding="utf-8"))
    return Manifest(
        base=BaseModelSpec(
            id=str(adapted.config.base_model_name_or_path),
            revision=adapted.config.revision,
            sha256=base.sha256,
            architecture=type(base.model).__name__,
            licence=base.licence,
            dtypes=base.dtypes,
            packed=packed,
        ),
        task=task,
        method=adapted.method,
        text=text,
        image=base.image,
        peft_config=peft_config,
        layout=layout,
        graphs={graph.name: graph.spec("graphs") for graph in graphs},
        parity=(),
        tools={name: tool_version(name) for name in _TOOLS},
        files=files,
        split=split.spec if split else None,
    )
