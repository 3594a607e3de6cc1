"""manifest.json: what is in a bundle.

The reader owns the format; the dev box fills the same dataclasses and writes them.
Format 1.1: 1.0 and ``ort_training``. A reader refuses another major version and warns on a later minor one.
"""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from fieldtune.errors import InvalidBundle, UnsupportedFormat
from fieldtune.fields import Table
from fieldtune.layout import ROLES, Layout, ParameterSpec

FORMAT_VERSION = "1.1"
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "graphs/weights.safetensors"
ADAPTER_NAME = "adapter"
IGNORE_INDEX = -100
"""The label of a position that does not count, as torch.nn.CrossEntropyLoss has it."""

Shape: TypeAlias = tuple[int | str, ...]
Resample: TypeAlias = Literal["nearest", "bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """An input or output of a graph: NumPy dtype name, and a shape of sizes and names of symbolic dimensions."""

    name: str
    dtype: str
    shape: Shape


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
    """

    path: str
    nodes: str
    opset: int
    ir_version: int
    min_ort: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    adapter_inputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FileSpec:
    """A file of the bundle: its digest (hexadecimal) and size."""

    sha256: str
    size_bytes: int


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
    """

    id: str
    revision: str | None
    sha256: str
    architecture: str
    licence: str | None
    dtypes: Mapping[str, str]


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
class Manifest:
    """All of manifest.json: ``text`` or ``image`` says what goes in; ``ort_training`` is None unless asked for."""

    base: BaseModelSpec
    task: TaskSpec
    text: TextSpec | None
    image: ImageSpec | None
    peft_config: Mapping[str, Any]
    layout: Layout
    graphs: Mapping[str, GraphSpec]
    parity: tuple[ParitySpec, ...]
    tools: Mapping[str, str]
    files: Mapping[str, FileSpec]
    ort_training: OrtTrainingSpec | None = None
    format_version: str = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        data = dataclasses.asdict(self)
        data["layout"] = data["layout"]["parameters"]
        return json.dumps({"format_version": data.pop("format_version"), **data}, indent=1, ensure_ascii=False) + "\n"


def read_manifest(text: str, where: str = MANIFEST_NAME) -> Manifest:
    """Read the text of a manifest.

    Raises:
        UnsupportedFormat: another major version.
        InvalidBundle: not JSON, or a key that is missing, unknown or of another type.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise InvalidBundle(f"{where}: not JSON ({error}); build the bundle again or copy it again") from error
    table = Table(data, where, InvalidBundle)
    later = check_version(table.text("format_version"), FORMAT_VERSION, where)
    manifest = Manifest(
        format_version=table.text("format_version"),
        base=_base(table.table("base")),
        task=_task(table.table("task")),
        text=_text(table.optional_table("text")),
        image=_image(table.optional_table("image")),
        peft_config=table.plain("peft_config"),
        layout=_layout(table.tables("layout"), where),
        graphs={name: _graph(graph) for name, graph in table.named_tables("graphs").items()},
        parity=tuple(_parity(record) for record in table.tables("parity")),
        tools=_strings(table.table("tools")),
        files={name: _file(file) for name, file in table.named_tables("files").items()},
        ort_training=_ort_training(table.optional_table("ort_training")),
    )
    if not later:
        table.done()
    return manifest


def check_version(found: str, known: str, where: str) -> bool:
    """Check a ``major.minor`` version: return whether it is a later minor one (after a warning).

    Raises:
        UnsupportedFormat: another major version, or not of that form.
    """
    try:
        major, minor = (int(part) for part in found.split("."))
    except ValueError:
        raise UnsupportedFormat(f"{where}: format_version is {found!r}; expected major.minor, as {known}") from None
    known_major, known_minor = (int(part) for part in known.split("."))
    if major != known_major:
        advice = "update fieldtune" if major > known_major else "build it again"
        raise UnsupportedFormat(f"{where}: format_version is {found}; this fieldtune reads {known_major}.x: {advice}")
    if minor > known_minor:
        warnings.warn(
            f"{where}: format {found} is later than {known}; keys that this fieldtune does not know are ignored",
            stacklevel=3,
        )
    return minor > known_minor


def _base(table: Table) -> BaseModelSpec:
    return BaseModelSpec(
        id=table.text("id"),
        revision=table.optional_text("revision"),
        sha256=table.text("sha256"),
        architecture=table.text("architecture"),
        licence=table.optional_text("licence"),
        dtypes=_strings(table.table("dtypes")),
    )


def _task(table: Table) -> TaskSpec:
    return TaskSpec(name=table.text("name"), labels=table.texts("labels"))


def _text(table: Table | None) -> TextSpec | None:
    if table is None:
        return None
    return TextSpec(
        max_length=table.integer("max_length", least=1),
        pad_token_id=table.integer("pad_token_id", least=0),
        stop_token_ids=table.sizes("stop_token_ids"),
        special_tokens=_strings(table.table("special_tokens")),
        chat_template=table.optional_text("chat_template"),
    )


def _image(table: Table | None) -> ImageSpec | None:
    if table is None:
        return None
    return ImageSpec(
        height=table.integer("height", least=1),
        width=table.integer("width", least=1),
        channels=table.integer("channels", least=1),
        resize=table.optional_integer("resize", least=1),
        resample=_resample(table),
        mean=table.numbers("mean"),
        std=table.numbers("std"),
    )


def _resample(table: Table) -> Resample:
    found = table.choice("resample", get_args(Resample))
    return next(name for name in get_args(Resample) if name == found)


def _layout(tables: list[Table], where: str) -> Layout:
    parameters: list[ParameterSpec] = []
    offset = 0
    for table in tables:
        role = table.choice("role", ROLES)
        parameter = ParameterSpec(
            key=table.text("key"),
            role=next(known for known in ROLES if known == role),
            module=table.text("module"),
            shape=table.sizes("shape"),
            offset=table.integer("offset"),
            decay=table.flag("decay"),
        )
        if parameter.offset != offset:
            raise InvalidBundle(f"{where}: layout of {parameter.key!r} starts at {parameter.offset}; expected {offset}")
        offset += parameter.size
        parameters.append(parameter)
    return Layout(tuple(parameters))


def _graph(table: Table) -> GraphSpec:
    return GraphSpec(
        path=table.text("path"),
        nodes=table.text("nodes"),
        opset=table.integer("opset"),
        ir_version=table.integer("ir_version"),
        min_ort=table.text("min_ort"),
        inputs=_tensors(table, "inputs"),
        outputs=_tensors(table, "outputs"),
        adapter_inputs=_tensors(table, "adapter_inputs"),
    )


def _tensors(table: Table, key: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=item.text("name"), dtype=item.text("dtype"), shape=item.shape("shape"))
        for item in table.tables(key)
    )


def _file(table: Table) -> FileSpec:
    return FileSpec(sha256=table.text("sha256"), size_bytes=table.integer("size_bytes", least=0))


def _parity(table: Table) -> ParitySpec:
    return ParitySpec(
        batch=table.integer("batch"),
        sequence=table.integer("sequence"),
        loss_relative=table.number("loss_relative"),
        gradient_relative=table.number("gradient_relative"),
        inference_relative=table.number("inference_relative"),
        vanishing_gradients=table.texts("vanishing_gradients"),
    )


def _ort_training(table: Table | None) -> OrtTrainingSpec | None:
    if table is None:
        return None
    return OrtTrainingSpec(
        training_model=table.text("training_model"),
        eval_model=table.text("eval_model"),
        optimizer_model=table.text("optimizer_model"),
        checkpoint=table.text("checkpoint"),
        nominal_checkpoint=table.text("nominal_checkpoint"),
        runtime=table.text("runtime"),
        parity=tuple(
            OrtParitySpec(
                batch=record.integer("batch"),
                sequence=record.integer("sequence"),
                loss_relative=record.number("loss_relative"),
                gradient_relative=record.number("gradient_relative"),
            )
            for record in table.tables("parity")
        ),
    )


def _strings(table: Table) -> dict[str, str]:
    return {key: table.text(key) for key in table}
