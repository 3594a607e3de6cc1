"""The page of the FPGA demo: accuracy, where the model runs, what each epoch took, how fast adapters are swapped."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from fieldtune import open_bundle
from fieldtune.bundle import Bundle
from fieldtune.hardware import CPU_PROVIDER, load_profile
from fieldtune.placement import placement_picture, split_pieces

_TEMPLATE = Path(__file__).with_suffix(".html.jinja")


def write_page(
    path: Path,
    *,
    bundle: Path,
    targets: Sequence[str],
    trained: Mapping[str, Any],
    second: Mapping[str, Any],
    swapped: Mapping[str, Any],
) -> Path:
    """Write the page and return its path.

    Args:
        path: of the page.
        bundle: the split bundle with a prefix for each target.
        targets: names of two profiles; the first was trained on.
        trained: train_report.json of that run.
        second: what ``fieldtune evaluate --json`` says on the other one.
        swapped: what swaps.py prints.
    """
    opened = open_bundle(bundle)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    placements = [_with_offload(told["split"]["placement"]) for told in (trained, second)]
    seconds = [epoch["seconds"] for epoch in trained["epochs"]]
    page = template.render(
        base=opened.manifest.base,
        targets=targets,
        pictures=[_picture(opened, name) for name in targets],
        quantized=[opened.manifest.targets[name] for name in targets],
        placements=placements,
        before=trained["evaluations"][0]["evaluation"],
        after=trained["evaluations"][-1]["evaluation"],
        second=second["evaluation"],
        epochs=[{**epoch, "share": 100 * epoch["seconds"] / max(seconds)} for epoch in trained["epochs"]],
        swapped=swapped,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _with_offload(placement: Mapping[str, Any]) -> dict[str, Any]:
    """Return a placement with the share of multiply-accumulates that do not run on the CPU."""
    macs = {share["provider"]: share["macs"] for share in placement["shares"]}
    return {**placement, "offload": 1 - macs.get(CPU_PROVIDER, 0) / (sum(macs.values()) or 1)}


def _picture(bundle: Bundle, name: str) -> str:
    target = bundle.manifest.targets[name]
    assert bundle.manifest.split is not None
    sizes = [size for spec in bundle.manifest.split.boundary for size in spec.shape[1:]]
    carried = 4 * math.prod(size for size in sizes if isinstance(size, int))
    return placement_picture(
        split_pieces(bundle, load_profile(name), target.graph, target.batch),
        accelerator=f"{name}: {target.target}, emulated",
        source="an image",
        boundary=f"{carried:,} bytes an image",
        result="classes",
        cached=True,
    )
