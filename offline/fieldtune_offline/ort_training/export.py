"""export_ort_training: the official artifacts of a bundle, compared with its gradient.onnx before they are in it."""

import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from fieldtune.adapters import Adapter, read_adapter
from fieldtune.adapters.methods import all_methods
from fieldtune.bundle import MANIFEST_NAME, Manifest, OrtTrainingSpec, file_spec, open_bundle
from fieldtune.bundle.manifest import FORMAT_VERSION
from fieldtune.errors import ExportError, UnsupportedModel
from fieldtune.files import output_folder
from fieldtune.training.backends import training_api
from fieldtune_offline.environments import Environment, environment_python
from fieldtune_offline.methods.interface import Method
from fieldtune_offline.methods.table import method_named
from fieldtune_offline.ort_training import generate
from fieldtune_offline.ort_training.forward import forward_model, frozen_parameters
from fieldtune_offline.ort_training.probes import Probes
from fieldtune_offline.progress import Report
from fieldtune_offline.tasks.interface import Arrays

FOLDER = "ort_training"
ENVIRONMENT = Environment(
    name="ort-training",
    requirements=Path(__file__).with_name("requirements.txt"),
    versions=((3, 12), (3, 11)),  # of those that the dev box's half runs on
    wheels_of="ONNX Runtime's training build",
    advice="its packages have wheels for 64-bit x86 (Linux, Windows, macOS) alone, and come from the package index "
    "that pip is set to",
)
_UNREGISTERED = re.compile(r"gradient builder has not been registered: (\S+) for node (.*)", re.IGNORECASE)
_UNSUPPORTED = ("gradientbuilder", "gradient definition")


def export_ort_training(bundle: Path, adapter: Path | None = None, report: Report = lambda _: None) -> Manifest:
    """Write the official artifacts into a bundle that exists; it is replaced whole, or left as it is.

    Args:
        bundle: its folder.
        adapter: PEFT directory whose values the checkpoint holds, at the bundle's own rank; the initial one if None.
        report: called with one line at the start of each stage.

    Raises:
        ExportError: no environment for the training build can be made, or its tool failed.
        UnsupportedModel: an operator that it has no gradient of, by name; or a model that is too large for it.
        ParityError: the artifacts do not compute what gradient.onnx computes.
        AdapterMismatch: the bundle cannot train the adapter.
        InvalidBundle: not a bundle.
    """
    opened = open_bundle(bundle)
    opened.check_trainable()
    opened.check_float32("the official training artifacts are in float32")
    check_method(method_named(opened.manifest.method), str(bundle))
    python = training_python(report)
    kept = {name: spec for name, spec in opened.manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    # The copy, a checkpoint of the same weights, and the forward graph while the tool runs.
    needed = 3 * sum(spec.size_bytes for spec in kept.values())
    with output_folder(bundle, overwrite=True, marks=(MANIFEST_NAME,), needed_bytes=needed) as staging:
        for name in kept:
            # Copied, not linked: readers of ONNX files take a weights file with a second name for an attack.
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(opened.root / name, staging / name)
        start = read_adapter(adapter or opened.adapter_path)
        manifest = add_ort_training(staging, opened.manifest, start, python, report)
        (staging / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def check_method(method: Method, where: str) -> None:
    """Check that the official artifacts can be made for a method.

    Raises:
        UnsupportedModel: what its eval.onnx takes is made of theta on the device.
    """
    if not method.official:
        others = ", ".join(known.name for known in all_methods() if method_named(known.name).official)
        raise UnsupportedModel(
            f"{where}: the official training artifacts cannot be made for {method.title}, whose adapters eval.onnx "
            "takes in another form than they are trained in; train it with the portable backend, which needs no "
            f"artifacts, or build with a method that has them ({others})"
        )


def training_python(report: Report) -> Path:
    """Return the interpreter of the training build's environment, which is made if it is not there yet.

    Raises:
        ExportError: it cannot be made; the message says why.
    """
    return environment_python(ENVIRONMENT, report)


def add_ort_training(root: Path, manifest: Manifest, adapter: Adapter, python: Path, report: Report) -> Manifest:
    """Write ``ort_training/`` into a folder that holds a bundle's other files; return the manifest with it.

    Args:
        root: the folder.
        manifest: of these files.
        adapter: what the checkpoint holds.
        python: of ``training_python``.
        report: called with one line at the start of each stage.

    Raises:
        ExportError: as ``export_ort_training``.
    """
    report("making the official training artifacts")
    probes = Probes.of(root, manifest, adapter)
    out = root / FOLDER
    out.mkdir()
    with tempfile.TemporaryDirectory(prefix="fieldtune-", dir=root) as work:
        version, answers = _generate(Path(work), out, python, forward_model(root, manifest, adapter), probes)
    report("comparing them with gradient.onnx")
    parity = probes.compare(answers)
    names = {Path(name).stem: f"{FOLDER}/{name}" for name in generate.FILES}
    files = {name: spec for name, spec in manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    files |= {name: file_spec(root / name) for name in names.values()}
    section = OrtTrainingSpec(**names, runtime=version, parity=parity)
    # A bundle of format 1.0 becomes one of the format that has the section.
    return dataclasses.replace(manifest, files=files, ort_training=section, format_version=FORMAT_VERSION)


def _generate(work: Path, out: Path, python: Path, model: ir.Model, probes: Probes) -> tuple[str, Arrays]:
    """Run the tool in its environment; return the runtime's version, and what the artifacts answer to the probes."""
    manifest = probes.manifest
    ir.save(model, work / "forward.onnx")
    np.savez(work / "probes.npz", **probes.arrays())  # type: ignore[arg-type]
    request = {
        "forward": str(work / "forward.onnx"),
        "trained": [parameter.key for parameter in manifest.layout.parameters],
        "frozen": frozen_parameters(model, manifest),
        "padding": probes.padding(),
        "out": str(out),
        "probes": str(work / "probes.npz"),
        "count": len(probes.batches),
        "answers": str(work / "answers.npz"),
        "training_api": str(training_api.__file__),
    }
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    # Isolated from this environment's variables: PYTHONPATH would bring the dev box's packages in.
    command = [str(python), "-I", str(generate.__file__), str(work / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = work / "result.json"
    result: Mapping[str, str] = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if "runtime" not in result:
        last = " ".join(done.stderr.split("\n")[-3:])[-400:]
        raise ExportError(f"the tool for the official artifacts ended with {done.returncode}: {last or 'no message'}")
    if "error" in result:
        raise _refusal(" ".join(result["error"].split()), manifest, result["runtime"])
    with np.load(work / "answers.npz") as answers:
        return result["runtime"], dict(answers)


def _refusal(error: str, manifest: Manifest, runtime: str) -> ExportError:
    unregistered = _UNREGISTERED.search(error)
    if unregistered or any(sign in error.lower() for sign in _UNSUPPORTED):
        # The rest of what the tool says of a missing gradient is a function's signature in C++.
        what = "the operator {} (node {})".format(*unregistered.groups()) if unregistered else f"an operator: {error}"
        return UnsupportedModel(
            f"{manifest.base.id}: ONNX Runtime {runtime} has no gradient of {what}; nothing was written: train it with "
            "the portable backend, which needs none"
        )
    return ExportError(f"ONNX Runtime {runtime} cannot make the official artifacts: {error}; nothing was written")
