"""``fieldtune-offline build``: from a model to a bundle."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fieldtune.cli.flags import JsonFlag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fieldtune.manifest import Manifest
    from fieldtune_offline.spec import BuildSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """Turn a model into a bundle that devices adapt and serve.

    Every build ends by comparing loss, gradients and outputs with torch on stock ONNX Runtime; one that differs is not
    written.

    Examples:
      fieldtune-offline build ./minilm --task text-classification --labels negative positive --out artifacts/minilm
      fieldtune-offline build ./smollm2 --task text-generation --target-modules q_proj v_proj --out artifacts/smollm2
      fieldtune-offline build ./llama --task text-generation --target-modules all-linear --rank 16 --out artifacts/llama
      fieldtune-offline build ./minilm --task text-classification --adapter ./my-adapter --out artifacts/minilm-v2
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder in transformers' format, or the name of a model on a hub that can be reached."""

    task: str
    """text-classification or text-generation, or a synonym that optimum knows."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the bundle."""

    labels: tuple[str, ...] = ()
    """Names of the classes in the order of the logits; left out, those of the checkpoint."""

    rank: int = 8
    """LoRA's rank r."""

    alpha: int = 16
    """LoRA's alpha: the update is scaled by alpha / rank."""

    target_modules: tuple[str, ...] = ()
    """Modules to adapt, by name or suffix, or all-linear; left out, PEFT's choice for the model."""

    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole and save with the adapter, beside a new head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank)."""

    bias: str = "none"
    """Biases to train: none, all or lora_only."""

    peft_config: Path | None = None
    """JSON file with any fields of PEFT's LoraConfig; what it says wins over the flags above."""

    adapter: Path | None = None
    """PEFT directory to start from, with its own settings."""

    batch: int | None = None
    """Static batch size; left out, it may vary."""

    sequence: int | None = None
    """Static sequence length in tokens; left out, it may vary."""

    seed: int = 0
    """Seed of a new head and of lora_A."""

    overwrite: bool = False
    """Replace the bundle if it exists."""

    as_json: JsonFlag = False
    """Print one JSON object on stdout."""

    def spec(self) -> "BuildSpec":
        """Return what is asked for."""
        from fieldtune_offline.spec import BuildSpec, LoraSpec

        lora = LoraSpec(
            rank=self.rank,
            alpha=self.alpha,
            target_modules=self.target_modules,
            modules_to_save=self.modules_to_save,
            rslora=self.rslora,
            bias=self.bias,
            config=self.peft_config,
        )
        return BuildSpec(
            model=self.model,
            task=self.task,
            out=self.out,
            labels=self.labels,
            lora=lora,
            adapter=self.adapter,
            batch=self.batch,
            sequence=self.sequence,
            seed=self.seed,
            overwrite=self.overwrite,
        )


def run(command: Build, console: "Console") -> int:
    """Build and print the figures of parity; return the exit code."""
    from fieldtune.cli.results import print_json, print_tables
    from fieldtune_offline.build import build_bundle

    started = time.monotonic()

    def report(stage: str) -> None:
        console.print(f"{time.monotonic() - started:6.1f} s  {stage}", markup=False, highlight=False, soft_wrap=True)

    manifest = build_bundle(command.spec(), report)
    report(f"written: {command.out}")
    if command.as_json:
        print_json({"bundle": str(command.out), "parity": manifest.parity, "parameters": manifest.layout.size})
    else:
        print_tables(parity_table(manifest))
    return 0


def parity_table(manifest: "Manifest") -> "Table":
    """Return the figures of parity as a table."""
    from fieldtune.cli.results import new_table

    columns = ("batch, sequence", "loss", "gradients", "inference")
    table = new_table("Largest differences from torch, relative", columns)
    for record in manifest.parity:
        figures = (record.loss_relative, record.gradient_relative, record.inference_relative)
        table.add_row(f"{record.batch}, {record.sequence}", *(f"{figure:.1e}" for figure in figures))
    vanishing = sorted({key for record in manifest.parity for key in record.vanishing_gradients})
    if vanishing:
        table.caption = f"Gradients that vanish in torch, too: {', '.join(vanishing)}"
    return table
