"""What a build is asked for. Every default is here and nowhere else; the docs of the fields are the command line's."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

CALIBRATION_EXAMPLES = 256


def changed(spec: Any) -> dict[str, Any]:
    """Return the fields of a spec that are not at their defaults, by name."""
    return {
        field.name: value for field in dataclasses.fields(spec) if (value := getattr(spec, field.name)) != field.default
    }


def flags(spec: Any, names: Iterable[str]) -> str:
    """Return the flags of fields of a spec as messages list them; one that is on by default is taken away."""
    defaults = {field.name: field.default for field in dataclasses.fields(spec)}
    return ", ".join(f"--{'no-' if defaults[name] is True else ''}{name.replace('_', '-')}" for name in names)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """How the model is adapted, in the terms of PEFT's configurations; what is left out is the method's own default.

    These are the settings of all methods together: one that the chosen method does not have is refused by its name.
    """

    name: Annotated[str | None, tyro.conf.arg(name="method", metavar="METHOD")] = None
    """How the model is adapted; left out, as --peft-config or --adapter says, else by LoRA."""

    rank: int | None = None
    """Rank of the update, of methods that have one."""

    alpha: int | None = None
    """What the update is scaled by, over the rank, of methods that scale it."""

    target_modules: tuple[str, ...] = ()
    """Modules to adapt, by name or suffix, or all-linear; left out, PEFT's choice for the model."""

    feedforward_modules: tuple[str, ...] = ()
    """Those of the modules whose input is adapted in place of their output, of methods that tell them apart."""

    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole and save with the adapter, beside a new head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023)."""

    bias: Annotated[str | None, tyro.conf.arg(metavar="BIAS")] = None
    """Biases to train: none, all, or those of the adapted modules, as PEFT names that for the method."""

    peft_config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file with any fields of the method's configuration; what it says wins over the settings above."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionSpec:
    """How the frozen base is stored, trained against and served; the adapter stays in float32.

    These are the settings of all precisions together: one that the chosen precision does not have is refused.
    """

    name: Annotated[str | None, tyro.conf.arg(name="base", metavar="PRECISION")] = None
    """float32, or what linear layers are packed into, int4 for instance; embeddings are int8 then. Another name is
    refused with the list of those that there are. Left out, as the checkpoint is packed, else float32."""

    block: int | None = None
    """Columns that share a scale, of precisions with blocks; left out, 64."""

    symmetric: bool = False
    """No zero point for each block, of precisions that have one."""

    double_quant: bool = True
    """Whether scales of blocks are quantized, too, of precisions that do so."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildSpec:
    """One bundle."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder in transformers' format, or the name of a model on a hub that can be reached."""

    task: str
    """What the model is to do, text-classification for instance, as optimum names it; another name is refused with the
    list of those that there are."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the bundle."""

    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the logits; left out, those of the checkpoint."""

    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """PEFT directory to start from, with its own settings in place of those of a new adapter."""

    batch: int | None = None
    """Static batch size; left out, it may vary."""

    sequence: int | None = None
    """Static sequence length in tokens; left out, it may vary."""

    seed: int = 0
    """Seed of a new head and a new adapter."""

    split: Literal["none", "auto"] | int = "none"
    """Cut the frozen part off, to run once a sample: auto where that is cheapest; N adapts the last N blocks only."""

    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PROFILE")] = ()
    """Hardware profiles whose accelerators the frozen part is quantized for, at the cheapest split if none is named."""

    calibration: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Examples that quantization takes its ranges from, as training takes them; a target needs them."""

    calibration_examples: int = CALIBRATION_EXAMPLES
    """How many of them ranges are taken from, half of them at most; accuracy before and after is measured on others."""

    quantizer: Literal["ort", "quark"] = "ort"
    """ort: ONNX Runtime's, weights adjusted to the examples; quark: AMD Quark, in an environment of its own."""

    ort_training: bool = False
    """Also make ONNX Runtime's official training artifacts, in an environment of their own."""

    trust_remote_code: bool = False
    """Run the Python code that a model directory brings for its own architecture; only for directories you trust."""

    overwrite: bool = False
    """Replace the bundle if it exists."""

    method: MethodSpec = MethodSpec()

    base: PrecisionSpec = PrecisionSpec()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergeSpec:
    """One bundle with one adapter folded into its weights."""

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """Folder that fieldtune-offline build made."""

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """PEFT directory, of any rank and alpha."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the merged bundle."""

    float32: bool = False
    """Write float32 weights, also where the base is packed: larger, and without the rounding of packing anew."""

    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PROFILE")] = ()
    """Hardware profiles whose accelerators the whole network is quantized for."""

    calibration: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Examples that quantization takes its ranges from, with the adapter's labels; a target needs them."""

    calibration_examples: int = CALIBRATION_EXAMPLES
    """How many of them ranges are taken from, half of them at most; accuracy before and after is measured on others."""

    quantizer: Literal["ort", "quark"] = "ort"
    """ort: ONNX Runtime's, weights adjusted to the examples; quark: AMD Quark, in an environment of its own."""

    overwrite: bool = False
    """Replace the bundle if it exists."""
