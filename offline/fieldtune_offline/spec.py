"""What a build is asked for. Every default is here and nowhere else; the docs of the fields are the command line's."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

CALIBRATION_EXAMPLES = 256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """The adapter to add (Hu et al. 2021), in the terms of PEFT's LoraConfig."""

    rank: int = 8
    """LoRA's rank r."""

    alpha: int = 16
    """LoRA's alpha: the update is scaled by alpha / rank."""

    target_modules: tuple[str, ...] = ()
    """Modules to adapt, by name or suffix, or all-linear; left out, PEFT's choice for the model."""

    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole and save with the adapter, beside a new head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023)."""

    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases to train."""

    peft_config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON file with any fields of LoraConfig; what it says wins over the settings above."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildSpec:
    """One bundle."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder in transformers' format, or the name of a model on a hub that can be reached."""

    task: str
    """text-classification, text-generation or image-classification, or a synonym that optimum knows."""

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
    """Seed of a new head and of lora_A."""

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

    lora: LoraSpec = LoraSpec()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MergeSpec:
    """One bundle with one adapter folded into its weights."""

    bundle: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="BUNDLE")]
    """Folder that fieldtune-offline build made."""

    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    """PEFT directory, of any rank and alpha."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the merged bundle."""

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
