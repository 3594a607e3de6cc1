"""build_bundle: one straight line from a model to a verified bundle, written beside its place, then renamed."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from fieldtune.adapters import Adapter, inference_inputs, read_adapter
from fieldtune.bundle import (
    ADAPTER_NAME,
    MANIFEST_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    BaseModelSpec,
    Bundle,
    Manifest,
    ParitySpec,
    TaskSpec,
    TextSpec,
    file_spec,
)
from fieldtune.errors import UnsupportedModel
from fieldtune.files import output_folder
from fieldtune.tasks import Task as DeviceTask
from fieldtune.tasks import new_task
from fieldtune_offline.accelerators.calibration_data import Calibration, read_calibration
from fieldtune_offline.accelerators.int8 import choose_quantizer
from fieldtune_offline.accelerators.prefixes import add_targets, load_targets
from fieldtune_offline.adapted import Adapted
from fieldtune_offline.environments import Report
from fieldtune_offline.graph import Graph
from fieldtune_offline.graphs import adapted_graph, gradient_graph
from fieldtune_offline.methods.adapting import adapt, with_weights_named
from fieldtune_offline.methods.choosing import chosen_method
from fieldtune_offline.modalities.text import text_spec
from fieldtune_offline.models import BaseModel, load_base
from fieldtune_offline.node_table import node_table
from fieldtune_offline.ort_training.export import add_ort_training, check_method, training_python
from fieldtune_offline.parity.split import check_split
from fieldtune_offline.parity.whole import check_parity, open_sessions
from fieldtune_offline.passes.split_prefix import Split, split_prefix
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.spec import BuildSpec
from fieldtune_offline.spec_checks import checked_spec
from fieldtune_offline.tasks.interface import GRADIENT, Part, Task
from fieldtune_offline.tasks.table import task_class
from fieldtune_offline.tracing import TracedForward, trace_adapted
from fieldtune_offline.versions import tool_version
from fieldtune_offline.weights import bind_weights, write_weights

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
    spec = checked_spec(spec, kind)
    targets = load_targets(spec.target)
    method = chosen_method(spec)
    if spec.ort_training:
        check_method(method, spec.model)
    # What could be missing on this machine shows before the minutes of a build.
    training = training_python(report) if spec.ort_training else None
    quantizer = choose_quantizer(spec.quantizer, report)
    with output_folder(spec.out, overwrite=spec.overwrite, marks=(MANIFEST_NAME,)) as staging:
        base = _load(spec, kind, report)
        text = _text(base, spec)
        task_spec = TaskSpec(name=kind.name, labels=kind.labels_of(base.model.config))
        if base.tokenizer is not None:
            base.tokenizer.backend_tokenizer.save(str(staging / TOKENIZER_NAME))
        told = new_task(task_spec, text=text, image=base.image, tokenizer_path=staging / TOKENIZER_NAME)
        calibration = _calibration(spec, told, report)
        adapted = adapt(base, spec, kind)
        task = kind(adapted.model, base.image)
        graphs = _trace(spec, adapted, task, report)
        split = _split(spec, graphs, report)
        graphs += split.graphs if split else ()
        report("writing weights and graphs")
        _write(staging, graphs, adapted)
        manifest = _manifest(task_spec, base, adapted, text, graphs, split, staging)
        report("comparing with torch on stock ONNX Runtime")
        initial = read_adapter(staging / ADAPTER_NAME)
        parity = _compared(Bundle(staging, manifest), adapted, task, initial, _parity_shapes(spec, base))
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


def _load(spec: BuildSpec, task: type[Task], report: Report) -> BaseModel:
    report(f"loading {spec.model}")
    base = load_base(spec, task)
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


def _trace(spec: BuildSpec, adapted: Adapted, task: Task, report: Report) -> list[Graph]:
    static = frozenset(name for name in ("batch", "sequence") if getattr(spec, name) is not None)
    batch, sequence = spec.batch or _TRACE_SHAPE[0], spec.sequence or _TRACE_SHAPE[1]
    graphs: list[Graph] = []
    traced: dict[str, TracedForward] = {}
    for name, source in task.graphs(batch, sequence).items():
        if isinstance(source, Part):
            graphs.append(adapted_graph(name, traced[source.of], source))
            continue
        report(f"tracing the {_SAID.get(name, name)} graph")
        fixed = frozenset[str]() if source.varies else static
        if name == GRADIENT:
            graphs.append(gradient_graph(source, adapted, fixed))
        else:
            traced[name] = trace_adapted(source, adapted, fixed)
            graphs.append(adapted_graph(name, traced[name]))
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


def _compared(
    bundle: Bundle, adapted: Adapted, task: Task, initial: Adapter, shapes: list[tuple[int, int]]
) -> tuple[ParitySpec, ...]:
    parity = check_parity(open_sessions(bundle.root / "graphs"), adapted, task, bundle, initial, shapes)
    if bundle.manifest.split is not None:
        check_split(bundle, adapted, task, initial, shapes)
    return parity


def _parity_shapes(spec: BuildSpec, base: BaseModel) -> list[tuple[int, int]]:
    shapes = [(spec.batch or batch, spec.sequence or sequence) for batch, sequence in _PARITY_SHAPES]
    if base.image is not None:
        shapes = [(batch, 0) for batch, _ in shapes]
    return list(dict.fromkeys(shapes))


def _write(staging: Path, graphs: list[Graph], adapted: Adapted) -> None:
    folder = staging / "graphs"
    folder.mkdir()
    weights_path = staging / WEIGHTS_NAME
    tensors = {name: tensor for graph in graphs for name, tensor in graph.weights.items()}
    slots = write_weights(weights_path, tensors)
    for graph in graphs:
        bind_weights(graph.unbound, slots, weights_path)
        ir.save(graph.model, folder / f"{graph.name}.onnx")
        (folder / f"{graph.name}.nodes.json").write_text(node_table(graph.model), encoding="utf-8")
    with quiet_loading():
        adapted.model.save_pretrained(str(staging / ADAPTER_NAME), save_embedding_layers=False)
    for name in ("README.md",):
        # PEFT's card is a form to fill in; the manifest says what there is to say.
        (staging / ADAPTER_NAME / name).unlink(missing_ok=True)


def _manifest(
    task: TaskSpec,
    base: BaseModel,
    adapted: Adapted,
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
        ),
        task=task,
        method=adapted.method,
        text=text,
        image=base.image,
        peft_config=peft_config,
        layout=with_weights_named(adapted, {name: held for graph in graphs for name, held in graph.weights.items()}),
        graphs={graph.name: graph.spec("graphs") for graph in graphs},
        parity=(),
        tools={name: tool_version(name) for name in _TOOLS},
        files=files,
        split=split.spec if split else None,
    )
