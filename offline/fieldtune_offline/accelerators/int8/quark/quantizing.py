"""quantize_with_quark: a float32 graph quantized by AMD Quark's XINT8 settings."""

import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from fieldtune.errors import ExportError
from fieldtune.hardware import Accelerator
from fieldtune.placement import trace
from fieldtune_offline.accelerators.int8.calibration import Feeds
from fieldtune_offline.accelerators.int8.quantizing import Quantized, static_graph
from fieldtune_offline.accelerators.int8.quark import run_quark
from fieldtune_offline.accelerators.int8.regions import accelerated_nodes
from fieldtune_offline.accelerators.int8.static import finish
from fieldtune_offline.environments import Environment, environment_python
from fieldtune_offline.node_table import table_of
from fieldtune_offline.progress import Report

ENVIRONMENT = Environment(
    name="quark",
    requirements=Path(__file__).with_name("requirements.txt"),
    first=Path(__file__).with_name("torch.txt"),
    versions=((3, 13), (3, 12), (3, 11)),  # of those that the dev box's half runs on
    wheels_of="AMD Quark",
    advice="torch's build for CPUs, 2.13.0+cpu, comes from PyTorch's own package index: name that to pip "
    "(PIP_EXTRA_INDEX_URL), or a folder that holds the wheel (PIP_FIND_LINKS)",
)


def quark_python(report: Report) -> Path:
    """Return the interpreter of Quark's environment, which is made if it is not there yet.

    Raises:
        ExportError: it cannot be made; the message says why.
    """
    return environment_python(ENVIRONMENT, report)


def quantize_with_quark(
    model: ir.Model | Path,
    accelerator: Accelerator,
    feeds: Iterable[Feeds],
    *,
    batch: int | None = None,
    report: Report = lambda _: None,
) -> Quantized:
    """Quantize a graph with AMD Quark: its XINT8 settings, on the operators that the accelerator takes.

    Quark chooses the positions and rounds weights and biases, biases to eight bits; what it does to imitate a DPU by
    operators of its own in the graph is left out. Arguments and result are those of ``quantize``.

    Raises:
        ExportError: no examples, no environment for Quark, or Quark failed.
        UnsupportedModel: as ``quantize`` raises it.
    """
    python = quark_python(report)
    source = model if isinstance(model, ir.Model) else ir.load(model)
    static, batches, examples = static_graph(source, accelerator, feeds, batch)
    flow = trace(table_of(static))
    taken = accelerated_nodes(flow, accelerator)
    left = [node.name for index, node in enumerate(flow.table.nodes) if index not in taken]
    report(f"quantizing {len(taken)} operators with AMD Quark on {examples} examples")
    settings = {"activation_type": accelerator.activation_type, "left_out": left}
    quantized, version = _run(python, static, batches, settings)
    quantized.graph.name = static.graph.name
    quantized.ir_version = static.ir_version
    quantized.producer_name, quantized.producer_version = "fieldtune", None
    quantized.metadata_props.clear()
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(quantized)
    finish(quantized)
    return Quantized(model=quantized, reference=static, quantizer=f"amd-quark {version}", examples=examples)


def _run(python: Path, model: ir.Model, batches: Sequence[Feeds], settings: Mapping[str, Any]) -> tuple[ir.Model, str]:
    """Run the tool in its environment; return the quantized graph and the tool's version."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ir.save(model, work / "float.onnx")
        arrays = {f"{index}/{name}": array for index, batch in enumerate(batches) for name, array in batch.items()}
        np.savez(work / "batches.npz", **arrays)  # type: ignore[arg-type]
        request = {
            "model": str(work / "float.onnx"),
            "batches": str(work / "batches.npz"),
            "count": len(batches),
            "out": str(work / "quantized.onnx"),
            **settings,
        }
        (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
        # Isolated from this environment's variables: PYTHONPATH would bring the dev box's packages in.
        command = [str(python), "-I", str(run_quark.__file__), str(work / "request.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
        answer = work / "result.json"
        result: Mapping[str, str] = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
        if "error" in result or not (work / "quantized.onnx").is_file():
            last = " ".join((done.stderr or done.stdout).split("\n")[-3:])[-400:]
            raise ExportError(f"AMD Quark cannot quantize the graph: {' '.join(result.get('error', last).split())}")
        quantized = ir.load(work / "quantized.onnx")
        ir.external_data.load_to_model(quantized)
    return quantized, result["quark"]
