"""manifest.json read: every key checked, and what the keys say held against each other."""

from typing import get_args

from fieldtune.bundle.layout import BaseWeight, Layout, PackedWeight, ParameterSpec
from fieldtune.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    PREFIX_GRAPH,
    SUFFIX_GRAPHS,
    BaseModelSpec,
    FileSpec,
    GraphSpec,
    ImageSpec,
    Manifest,
    MergeCost,
    MergedSpec,
    MergeParitySpec,
    OrtParitySpec,
    OrtTrainingSpec,
    PackedSpec,
    PackingCost,
    ParitySpec,
    QuantizedAccuracy,
    Resample,
    SplitSpec,
    TargetSpec,
    TaskSpec,
    TensorSpec,
    TextSpec,
)
from fieldtune.bundle.precision import ActivationType, Precision
from fieldtune.errors import InvalidBundle
from fieldtune.files import Fields, check_version, parse_json

_AGAIN = "build it again: fieldtune-offline build MODEL --task TASK --out DIR"


def read_manifest(text: str, where: str = MANIFEST_NAME) -> Manifest:
    """Read the text of a manifest.

    Raises:
        UnsupportedFormat: another major version.
        InvalidBundle: not JSON, or a key that is missing, unknown or of another type.
    """
    data = parse_json(text, where, InvalidBundle, "copy the bundle again or build it again")
    table = Fields(data, where, InvalidBundle)
    later = check_version(table.text("format_version"), FORMAT_VERSION, where, again=_AGAIN)
    manifest = Manifest(
        format_version=table.text("format_version"),
        base=_base(table.table("base")),
        task=_task(table.table("task")),
        method=table.text("method"),
        text=_text(table.optional_table("text")),
        image=_image(table.optional_table("image")),
        peft_config=table.plain("peft_config"),
        layout=_layout(table.tables("layout"), where),
        graphs={name: _graph(graph) for name, graph in table.named_tables("graphs").items()},
        parity=tuple(_parity(record) for record in table.tables("parity")),
        tools=_strings(table.table("tools")),
        files={name: _file(file) for name, file in table.named_tables("files").items()},
        ort_training=_ort_training(table.optional_table("ort_training")),
        split=_split(table.optional_table("split")),
        targets={name: _target(target) for name, target in table.named_tables("targets", {}).items()},
        merged=_merged(table.optional_table("merged")),
    )
    if not later:
        table.done()
    _check_modality(manifest, where)
    _check_split(manifest, where)
    if manifest.merged and manifest.layout.parameters:
        raise InvalidBundle(f"{where}: an adapter is merged, and 'layout' is not empty; merge again")
    return manifest


def _base(table: Fields) -> BaseModelSpec:
    return BaseModelSpec(
        id=table.text("id"),
        revision=table.optional_text("revision"),
        sha256=table.text("sha256"),
        architecture=table.text("architecture"),
        licence=table.optional_text("licence"),
        dtypes=_strings(table.table("dtypes")),
        packed=_packed(table.optional_table("packed")),
    )


def _packed(table: Fields | None) -> PackedSpec | None:
    if table is None:
        return None
    return PackedSpec(
        recipe=table.text("recipe"),
        matrices=_strings(table.table("matrices")),
        kept=_strings(table.table("kept")),
        cost=tuple(
            PackingCost(
                batch=cost.integer("batch", least=1),
                sequence=cost.integer("sequence", least=0),
                loss=cost.number("loss"),
                packed_loss=cost.number("packed_loss"),
                gradient_cosine=cost.number("gradient_cosine"),
                outputs_relative=cost.number("outputs_relative"),
            )
            for cost in table.tables("cost")
        ),
    )


def _task(table: Fields) -> TaskSpec:
    return TaskSpec(name=table.text("name"), labels=table.texts("labels"))


def _text(table: Fields | None) -> TextSpec | None:
    if table is None:
        return None
    return TextSpec(
        max_length=table.integer("max_length", least=1),
        pad_token_id=table.integer("pad_token_id", least=0),
        stop_token_ids=table.sizes("stop_token_ids"),
        special_tokens=_strings(table.table("special_tokens")),
        chat_template=table.optional_text("chat_template"),
    )


def _image(table: Fields | None) -> ImageSpec | None:
    if table is None:
        return None
    return ImageSpec(
        height=table.integer("height", least=1),
        width=table.integer("width", least=1),
        channels=table.integer("channels", least=1),
        resize=table.optional_integer("resize", least=1),
        resample=table.choice("resample", get_args(Resample)),
        mean=table.numbers("mean"),
        std=table.numbers("std"),
    )


def _layout(tables: list[Fields], where: str) -> Layout:
    parameters: list[ParameterSpec] = []
    offset = 0
    for table in tables:
        parameter = ParameterSpec(
            key=table.text("key"),
            module=table.text("module"),
            axes=table.texts("axes"),
            shape=table.sizes("shape"),
            offset=table.integer("offset"),
            decay=table.flag("decay"),
            transposed=table.flag("transposed"),
            scaled=table.flag("scaled"),
            optional=table.flag("optional"),
            replaces=table.optional_text("replaces"),
            weight=_base_weight(table.optional_table("weight")),
        )
        _check_axes(parameter, where)
        if parameter.offset != offset:
            raise InvalidBundle(f"{where}: layout of {parameter.key!r} starts at {parameter.offset}; expected {offset}")
        offset += parameter.size
        parameters.append(parameter)
    return Layout(tuple(parameters))


def _base_weight(table: Fields | None) -> BaseWeight | None:
    if table is None:
        return None
    return BaseWeight(
        name=table.text("name"),
        axes=table.texts("axes"),
        packed=_packed_weight(table.optional_table("packed")),
    )


def _packed_weight(table: Fields | None) -> PackedWeight | None:
    if table is None:
        return None
    return PackedWeight(
        recipe=table.text("recipe"), rows=table.integer("rows", least=1), columns=table.integer("columns", least=1)
    )


def _check_axes(parameter: ParameterSpec, where: str) -> None:
    axes, shape = parameter.axes, parameter.shape
    if len(axes) != len(shape):
        raise InvalidBundle(f"{where}: {parameter.key!r} has {len(axes)} 'axes' and a 'shape' of {len(shape)}")
    if len(set(axes)) != len(axes):
        raise InvalidBundle(f"{where}: {parameter.key!r} has two axes of one name: {', '.join(axes)}")
    if parameter.transposed and len(shape) != 2:
        raise InvalidBundle(f"{where}: {parameter.key!r} is 'transposed' and has {len(shape)} axes; expected 2")


def _graph(table: Fields) -> GraphSpec:
    return GraphSpec(
        path=table.text("path"),
        nodes=table.text("nodes"),
        opset=table.integer("opset", least=1),
        ir_version=table.integer("ir_version", least=1),
        min_ort=table.text("min_ort"),
        inputs=_tensors(table, "inputs"),
        outputs=_tensors(table, "outputs"),
        adapter_inputs=_tensors(table, "adapter_inputs"),
        in_order=table.flag("in_order"),
    )


def _tensors(table: Fields, key: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=item.text("name"), dtype=item.text("dtype"), shape=item.shape("shape"), pad=item.integer("pad"))
        for item in table.tables(key)
    )


def _file(table: Fields) -> FileSpec:
    return FileSpec(sha256=table.text("sha256"), size_bytes=table.integer("size_bytes", least=0))


def _parity(table: Fields) -> ParitySpec:
    return ParitySpec(
        batch=table.integer("batch"),
        sequence=table.integer("sequence"),
        loss_relative=table.number("loss_relative"),
        gradient_relative=table.number("gradient_relative"),
        inference_relative=table.number("inference_relative"),
        vanishing_gradients=table.texts("vanishing_gradients"),
    )


def _ort_training(table: Fields | None) -> OrtTrainingSpec | None:
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


def _split(table: Fields | None) -> SplitSpec | None:
    return None if table is None else SplitSpec(boundary=_tensors(table, "boundary"))


def _target(table: Fields) -> TargetSpec:
    return TargetSpec(
        profile=table.text("profile"),
        target=table.text("target"),
        graph=table.text("graph"),
        precision=table.choice("precision", get_args(Precision)),
        activation_type=table.choice("activation_type", get_args(ActivationType)),
        zero_point=table.integer("zero_point"),
        batch=table.integer("batch", least=1),
        quantizer=table.text("quantizer"),
        calibration_examples=table.integer("calibration_examples", least=1),
        accuracy=_accuracy(table.optional_table("accuracy")),
        unmeasured=table.optional_text("unmeasured"),
        reference=table.text("reference"),
    )


def _accuracy(table: Fields | None) -> QuantizedAccuracy | None:
    if table is None:
        return None
    return QuantizedAccuracy(
        measure=table.text("measure"),
        examples=table.integer("examples", least=1),
        before=table.number("before"),
        after=table.number("after"),
        after_half_up=table.optional_number("after_half_up"),
        boundary_snr_db=table.number("boundary_snr_db"),
    )


def _merged(table: Fields | None) -> MergedSpec | None:
    if table is None:
        return None
    return MergedSpec(
        adapter=table.text("adapter"),
        adapter_sha256=table.text("adapter_sha256"),
        peft_config=table.plain("peft_config"),
        base_sha256=table.text("base_sha256"),
        parity=tuple(
            MergeParitySpec(
                batch=record.integer("batch"),
                sequence=record.integer("sequence"),
                loss_relative=record.number("loss_relative"),
                inference_relative=record.number("inference_relative"),
            )
            for record in table.tables("parity")
        ),
        cost=tuple(
            MergeCost(
                batch=record.integer("batch"),
                sequence=record.integer("sequence"),
                loss=record.number("loss"),
                merged_loss=record.number("merged_loss"),
                outputs_relative=record.number("outputs_relative"),
            )
            for record in table.tables("cost")
        ),
    )


def _strings(table: Fields) -> dict[str, str]:
    return {key: table.text(key) for key in table}


def _check_modality(manifest: Manifest, where: str) -> None:
    image = manifest.image
    if (manifest.text is None) == (image is None):
        given = "neither" if image is None else "both"
        raise InvalidBundle(f"{where}: {given} of text and image; expected one of them; build the bundle again")
    if image is None:
        return
    if image.channels not in (1, 3):
        raise InvalidBundle(f"{where}: image: 'channels' is {image.channels}; expected 1 (grey) or 3 (RGB)")
    if not len(image.mean) == len(image.std) == image.channels or 0 in image.std:
        raise InvalidBundle(
            f"{where}: image: 'mean' is {list(image.mean)} and 'std' {list(image.std)}; expected {image.channels} "
            "number(s) each, and no std of 0"
        )


def _check_split(manifest: Manifest, where: str) -> None:
    if manifest.split is None:
        if manifest.targets:
            raise InvalidBundle(f"{where}: has targets and no split; build the bundle again")
        return
    whole = [name for name in SUFFIX_GRAPHS if name in manifest.graphs]
    needed = [PREFIX_GRAPH, *(SUFFIX_GRAPHS[name] for name in whole), *(t.graph for t in manifest.targets.values())]
    missing = [name for name in needed if name not in manifest.graphs]
    if missing:
        raise InvalidBundle(f"{where}: is split, but has no graph {', '.join(missing)}; build the bundle again")
