"""manifest.json: what is in a bundle.

The dev box fills these dataclasses and writes them; ``manifest_reading`` reads them.
Format 2.0: ``method``, and facts of each tensor in ``layout`` in place of its role. A reader refuses another major
version and warns on a later minor one.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from fieldtune.bundle.layout import Layout
from fieldtune.bundle.precision import ActivationType, Precision

FORMAT_VERSION = "2.0"
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "graphs/weights.safetensors"
ADAPTER_NAME = "adapter"
PREFIX_GRAPH = "prefix"
"""The frozen prefix in float32, for any batch; the graph of a target is named in its TargetSpec."""
WHOLE_GRAPHS: Mapping[str, str] = {name: name for name in ("gradient", "eval", "infer")}
SUFFIX_GRAPHS: Mapping[str, str] = {name: f"suffix_{name}" for name in WHOLE_GRAPHS}
"""Whole graph → what is left of it behind the prefix."""
PAST, PRESENT = "past_key_values.", "present."
"""What the names of a key-value cache begin with, as an input and as an output, as optimum has them."""
IGNORE_INDEX = -100
"""The label of a position that does not count, as torch.nn.CrossEntropyLoss has it."""

Shape: TypeAlias = tuple[int | str, ...]
Resample: TypeAlias = Literal["nearest", "bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: of it.
        dtype: NumPy's name of it.
        shape: sizes and names of symbolic dimensions.
        pad: what fills up an input where examples are shorter than their batch.
    """

    name: str
    dtype: str
    shape: Shape
    pad: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GraphSpec:
    """One ONNX graph.

    Attributes:
        path: of the .onnx file, relative to the bundle.
        nodes: path of its node table.
        opset: of the default domain.
        ir_version: of the ONNX file format.
        min_ort: the oldest ONNX Runtime that is known to load it.
        inputs: what must be fed, in order; adapter inputs are not among them.
        outputs: in order.
        adapter_inputs: name → shape of the inputs that carry an adapter and have a default; ``rank`` is symbolic.
        in_order: whether nodes are to run in the order of the file: matrices are unpacked right before they are used.
    """

    path: str
    nodes: str
    opset: int
    ir_version: int
    min_ort: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    adapter_inputs: tuple[TensorSpec, ...]
    in_order: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileSpec:
    """A file of the bundle: its digest (hexadecimal) and size."""

    sha256: str
    size_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PackingCost:
    """What packing the base costs against the same model in float32, at one shape and a perturbed adapter.

    ``sequence`` is 0 for images.

    Attributes:
        loss: of the model in float32, a label.
        packed_loss: of the packed model, a label.
        gradient_cosine: between the gradients of the adapter.
        outputs_relative: root mean square of the difference of what is served, over that of what float32 serves.
    """

    batch: int
    sequence: int
    loss: float
    packed_loss: float
    gradient_cosine: float
    outputs_relative: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PackedSpec:
    """How the matrices of the frozen base are packed.

    Attributes:
        recipe: precision of linear layers and its settings, as ``int4/64/asymmetric``.
        matrices: module → recipe.
        kept: module with a matrix of its own → why that stays in float32.
        cost: what packing costs.
    """

    recipe: str
    matrices: Mapping[str, str]
    kept: Mapping[str, str]
    cost: tuple[PackingCost, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BaseModelSpec:
    """The frozen base.

    Attributes:
        id: as PEFT's ``base_model_name_or_path`` has it.
        revision: of the model repository, if known.
        sha256: over names, dtypes, shapes and bytes of the base's tensors; equal bases have equal ones.
        architecture: the transformers class.
        licence: as the model's card names it, if it does.
        dtypes: tensor name → dtype in the checkpoint, where that is not float32.
        packed: how it is packed; None where all of it is in float32.
    """

    id: str
    revision: str | None
    sha256: str
    architecture: str
    licence: str | None
    dtypes: Mapping[str, str]
    packed: PackedSpec | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """What the model is trained to do.

    Attributes:
        name: as optimum's TasksManager has it.
        labels: names of the classes in the order of the logits; empty for text generation.
    """

    name: str
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextSpec:
    """How text becomes tensors: beside tokenizer.json, which holds the rest.

    Attributes:
        max_length: tokens that the model can take.
        pad_token_id: the id that fills short rows; their attention mask is 0.
        stop_token_ids: generation ends at any of these.
        special_tokens: bos_token, eos_token, … as a chat template uses them.
        chat_template: Jinja source; None if the model has none.
    """

    max_length: int
    pad_token_id: int
    stop_token_ids: tuple[int, ...]
    special_tokens: Mapping[str, str]
    chat_template: str | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """How an image becomes ``pixel_values`` (float32, shape (batch, channels, height, width)).

    The image is resized so that its shorter edge is ``resize`` (both edges become height and width where that is None),
    cut to height and width around its centre, divided by 255, and normalized with mean and std of each channel.

    Attributes:
        height: of the graphs' input, in pixels.
        width: of the graphs' input, in pixels.
        channels: 3 is RGB, 1 is grey.
        resize: shorter edge before the cut, in pixels; None for no cut.
        resample: how it is resized.
        mean: of each channel, in 0 to 1.
        std: of each channel, in 0 to 1.
    """

    height: int
    width: int
    channels: int
    resize: int | None
    resample: Resample
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ParitySpec:
    """What the build measured against torch, at one shape: largest differences, relative as their names say.

    ``sequence`` is 0 for images.
    """

    batch: int
    sequence: int
    loss_relative: float
    gradient_relative: float
    inference_relative: float
    vanishing_gradients: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrtParitySpec:
    """What the export of the official artifacts measured, at one shape: largest differences from gradient.onnx."""

    batch: int
    sequence: int
    loss_relative: float
    gradient_relative: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrtTrainingSpec:
    """The official training artifacts, for onnxruntime.training.api and its siblings in C, C++, C# and Java.

    Attributes:
        training_model: path of the graph of loss, gradients and their accumulation, relative to the bundle.
        eval_model: path of the forward graph: loss, and what accuracy is counted from.
        optimizer_model: path of AdamW.
        checkpoint: path of the parameters: those of the adapter require gradients, the base's are frozen.
        nominal_checkpoint: path of their names and shapes alone.
        runtime: version of the training build that made and checked them.
        parity: what the export measured against gradient.onnx.
    """

    training_model: str
    eval_model: str
    optimizer_model: str
    checkpoint: str
    nominal_checkpoint: str
    runtime: str
    parity: tuple[OrtParitySpec, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, relative to the bundle."""
        return (self.training_model, self.eval_model, self.optimizer_model, self.checkpoint, self.nominal_checkpoint)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec:
    """Where the graphs are cut: the frozen prefix gives the boundary, and the suffix graphs take it.

    Attributes:
        boundary: outputs of every prefix graph, and inputs of the suffix graphs under the same names; float32, batch
            first, each row of its own sample alone.
    """

    boundary: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedAccuracy:
    """What quantizing the prefix cost, on examples that were not calibrated on.

    Attributes:
        measure: what the accuracies are of: ``model``, or ``linear probe`` (ridge regression on the boundary, means
            over all but the batch and channel axes) where the head is new and knows nothing yet.
        examples: how many were counted.
        before: accuracy with the float32 prefix.
        after: accuracy with the quantized prefix, halves rounded to even, as the emulation does.
        after_half_up: the same with halves rounded up, as a DPU does; None in bundles that do not say.
        boundary_snr_db: power of the float32 boundary over the power of its difference from the quantized one, in dB.
    """

    measure: str
    examples: int
    before: float
    after: float
    after_half_up: float | None = None
    boundary_snr_db: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """The prefix, quantized and fixed in its shapes for one accelerator.

    Attributes:
        profile: name of the hardware profile that it was made for.
        target: the compiler's name of the accelerator.
        graph: name of its graph.
        precision: what it was quantized to.
        activation_type: of quantized activations.
        zero_point: of quantized activations.
        batch: samples in a run.
        quantizer: name and version of what quantized it.
        calibration_examples: from how many examples the ranges were taken.
        accuracy: what quantizing cost; None where it was not measured.
        unmeasured: why it was not, in words; None where it was.
        reference: path of stored inputs and the outputs expected for them (safetensors), relative to the bundle.
    """

    profile: str
    target: str
    graph: str
    precision: Precision
    activation_type: ActivationType
    zero_point: int
    batch: int
    quantizer: str
    calibration_examples: int
    accuracy: QuantizedAccuracy | None
    unmeasured: str | None = None
    reference: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergeParitySpec:
    """What a merge measured, at one shape: largest differences from the graphs that take the adapter as inputs.

    ``sequence`` is 0 for images.
    """

    batch: int
    sequence: int
    loss_relative: float
    inference_relative: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergeCost:
    """What a merge changes where the base is packed, at one shape; ``sequence`` is 0 for images.

    Attributes:
        loss: of the packed bundle with the adapter beside it, a label.
        merged_loss: of the merged bundle, a label.
        outputs_relative: root mean square of the difference of what is served, over that of what the packed bundle
            serves with the adapter.
    """

    batch: int
    sequence: int
    loss: float
    merged_loss: float
    outputs_relative: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergedSpec:
    """The adapter that is folded into the weights: there is no other in the bundle, and nothing to train.

    Attributes:
        adapter: name of its folder.
        adapter_sha256: of its adapter_model.safetensors, hexadecimal.
        peft_config: its adapter_config.json.
        base_sha256: of the base that it was folded into, as that bundle's manifest had it.
        parity: what the merge measured against that bundle's graphs; of a packed base with unpacked matrices in both.
        cost: what merging into a packed base changes; empty for one in float32.
    """

    adapter: str
    adapter_sha256: str
    peft_config: Mapping[str, Any]
    base_sha256: str
    parity: tuple[MergeParitySpec, ...]
    cost: tuple[MergeCost, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All of manifest.json.

    ``text`` or ``image`` says what goes in; ``ort_training`` and ``split`` are None unless asked for. ``targets`` has
    the name of a hardware profile → the prefix made for it. With ``merged``, ``layout`` and ``peft_config`` are empty.
    ``method`` is the name of how the base is adapted, as ``fieldtune-offline build --method`` has it.
    """

    base: BaseModelSpec
    task: TaskSpec
    method: str
    text: TextSpec | None
    image: ImageSpec | None
    peft_config: Mapping[str, Any]
    layout: Layout
    graphs: Mapping[str, GraphSpec]
    parity: tuple[ParitySpec, ...]
    tools: Mapping[str, str]
    files: Mapping[str, FileSpec]
    ort_training: OrtTrainingSpec | None = None
    split: SplitSpec | None = None
    targets: Mapping[str, TargetSpec] = dataclasses.field(default_factory=dict)
    merged: MergedSpec | None = None
    format_version: str = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        data = dataclasses.asdict(self)
        data["layout"] = data["layout"]["parameters"]
        return json.dumps({"format_version": data.pop("format_version"), **data}, indent=1, ensure_ascii=False) + "\n"


def forward_graphs(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the whole graphs that take the adapter as inputs: eval, and what serves."""
    parts = {PREFIX_GRAPH, *SUFFIX_GRAPHS.values(), *(target.graph for target in manifest.targets.values())}
    return tuple(name for name in manifest.graphs if name != "gradient" and name not in parts)


def decodes(manifest: Manifest) -> bool:
    """Whether a bundle writes token by token: infer.onnx takes a key-value cache."""
    graph = manifest.graphs.get("infer")
    return graph is not None and any(spec.name.startswith(PAST) for spec in graph.inputs)
