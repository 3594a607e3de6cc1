"""What a build is asked for."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoraSpec:
    """The adapter to add (Hu et al. 2021). Names and meanings are those of PEFT's LoraConfig.

    Attributes:
        rank: r, the inner size of B·A.
        alpha: the product is scaled by alpha / rank (alpha / √rank with ``rslora``).
        target_modules: names or suffixes of the modules to adapt, or "all-linear"; empty takes PEFT's choice.
        modules_to_save: modules trained whole and saved with the adapter, beside a new head.
        rslora: scale by alpha / √rank (Kalajdzievski 2023).
        bias: which biases are trained: none, all or lora_only.
        config: a JSON file with any further fields of LoraConfig; what it says wins over the attributes above.
    """

    rank: int = 8
    alpha: int = 16
    target_modules: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    rslora: bool = False
    bias: str = "none"
    config: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildSpec:
    """One bundle.

    Attributes:
        model: a folder in transformers' format, or the name of a model on a hub that can be reached.
        task: as optimum's TasksManager names it.
        out: the bundle's folder; must not exist unless ``overwrite``.
        labels: names of the classes, in the order of the logits; empty takes those of the checkpoint.
        lora: the adapter to add; ignored with ``adapter``.
        adapter: a PEFT directory to start from.
        batch: a static batch size; None leaves it dynamic.
        sequence: a static sequence length in tokens; None leaves it dynamic.
        seed: of a new head and of lora_A.
        overwrite: replace an existing ``out``.
    """

    model: str
    task: str
    out: Path
    labels: tuple[str, ...] = ()
    lora: LoraSpec = LoraSpec()
    adapter: Path | None = None
    batch: int | None = None
    sequence: int | None = None
    seed: int = 0
    overwrite: bool = False
