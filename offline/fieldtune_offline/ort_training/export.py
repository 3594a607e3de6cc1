"""export_ort_training: the official artifacts of a bundle, compared with its gradient.onnx before they are in it."""

import dataclasses
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fieldtune.adapter_inputs import to_theta
from fieldtune.adapters import Adapter, read_adapter
from fieldtune.backends import training_api
from fieldtune.bundle import TOKENIZER_NAME, file_spec, open_bundle
from fieldtune.data.batches import batch_of, static_shape
from fieldtune.data.examples import TEXT_CLASSIFICATION, Encoded
from fieldtune.errors import ExportError, ParityError, UnsupportedModel, listed
from fieldtune.layout import FloatArray
from fieldtune.manifest import FORMAT_VERSION, IGNORE_INDEX, MANIFEST_NAME, Manifest, OrtParitySpec, OrtTrainingSpec
from fieldtune.output_folder import output_folder
from fieldtune_offline.environments import environment_python
from fieldtune_offline.ort_training import generate
from fieldtune_offline.ort_training.forward import forward_model, frozen_parameters
from fieldtune_offline.parity import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    compare_gradients,
    open_session,
    relative_difference,
)

FOLDER = "ort_training"
PYTHONS = ((3, 12), (3, 11))
"""For which the training build has wheels, and which the dev box's half runs on."""
_SHAPES = ((3, 17), (2, 34))
_UNSUPPORTED = ("gradient builder has not been registered", "GradientBuilder", "gradient definition")

Report = Callable[[str], None]
Arrays = dict[str, npt.NDArray[Any]]


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


def training_python(report: Report) -> Path:
    """Return the interpreter of the training build's environment, which is made if it is not there yet.

    Raises:
        ExportError: it cannot be made; the message says why.
    """
    return environment_python("ort-training", Path(__file__).with_name("requirements.txt"), PYTHONS, report)


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
    probes = _probes(root, manifest)
    theta = to_theta(adapter, manifest)
    theta += np.random.default_rng(20).normal(0, 0.02, theta.shape).astype(np.float32)
    out = root / FOLDER
    out.mkdir()
    with tempfile.TemporaryDirectory(prefix="fieldtune-", dir=root) as work:
        version, answers = _generate(Path(work), out, python, root, manifest, adapter, probes, theta)
    report("comparing them with gradient.onnx")
    parity = _compare(root, manifest, probes, theta, answers)
    names = {Path(name).stem: f"{FOLDER}/{name}" for name in generate.FILES}
    files = {name: spec for name, spec in manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    files |= {name: file_spec(root / name) for name in names.values()}
    section = OrtTrainingSpec(**names, runtime=version, parity=parity)
    # A bundle of format 1.0 becomes one of the format that has the section.
    return dataclasses.replace(manifest, files=files, ort_training=section, format_version=FORMAT_VERSION)


def _generate(
    work: Path,
    out: Path,
    python: Path,
    root: Path,
    manifest: Manifest,
    adapter: Adapter,
    probes: list[Arrays],
    theta: FloatArray,
) -> tuple[str, Arrays]:
    """Run the tool in its environment; return the runtime's version, and what the artifacts answer to the probes."""
    model = forward_model(root, manifest, adapter)
    trained = [parameter.key for parameter in manifest.layout.parameters]
    ir.save(model, work / "forward.onnx")
    arrays = {f"{number}/{name}": array for number, probe in enumerate(probes) for name, array in probe.items()}
    arrays |= {f"theta/{key}": values for key, values in manifest.layout.views(theta).items()}
    np.savez(work / "probes.npz", **arrays)  # type: ignore[arg-type]
    request = {
        "forward": str(work / "forward.onnx"),
        "trained": trained,
        "frozen": frozen_parameters(model, manifest),
        "out": str(out),
        "probes": str(work / "probes.npz"),
        "count": len(probes),
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
    with np.load(work / "answers.npz") as found:
        return result["runtime"], dict(found)


def _refusal(error: str, manifest: Manifest, runtime: str) -> ExportError:
    if any(sign.lower() in error.lower() for sign in _UNSUPPORTED):
        return UnsupportedModel(
            f"{manifest.base.id}: ONNX Runtime {runtime} has no gradient of an operator of this model: {error}; "
            "nothing was written: train it with the portable backend, which needs none"
        )
    return ExportError(f"ONNX Runtime {runtime} cannot make the official artifacts: {error}; nothing was written")


def _probes(root: Path, manifest: Manifest) -> list[Arrays]:
    """Return batches of random tokens with padding and masked labels, in two shapes if they may vary."""
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(root / TOKENIZER_NAME)).get_vocab_size()
    inputs = manifest.graphs["eval"].inputs
    fixed = static_shape(inputs)
    sizes = dict.fromkeys((fixed[0] or batch, fixed[1] or sequence) for batch, sequence in _SHAPES)
    rng = np.random.default_rng(7)
    probes: list[Arrays] = []
    for batch, sequence in sizes:
        examples = []
        for row in range(batch):
            # One row of full length; the others are padded.
            length = max(2, sequence - 2 * row)
            input_ids = rng.integers(0, vocabulary, length)
            if manifest.task.name == TEXT_CLASSIFICATION:
                masked = batch > 2 and row == batch - 1
                labels = np.array(IGNORE_INDEX if masked else rng.integers(0, len(manifest.task.labels)), np.int64)
            else:
                labels = np.where(np.arange(length) < length // 3, IGNORE_INDEX, input_ids)
            examples.append(Encoded(input_ids=input_ids, labels=labels))
        probes.append(batch_of(examples, np.arange(batch), manifest, inputs))
    return probes


def _compare(
    root: Path, manifest: Manifest, probes: list[Arrays], theta: FloatArray, answers: Arrays
) -> tuple[OrtParitySpec, ...]:
    session = open_session(root / manifest.graphs["gradient"].path)
    records, faults = [], []
    for number, probe in enumerate(probes):
        where = "batch {}, sequence {}".format(*probe["input_ids"].shape)
        loss_sum, weight, gradient = session.run(["loss_sum", "weight", "grad_sum"], {**probe, "theta": theta})
        expected = {key: view / weight for key, view in manifest.layout.views(gradient).items()}
        found = {key: answers[f"{number}/{key}"] for key in expected}
        # Either may be a tolerance away from torch, on its own side.
        comparison = compare_gradients(found, expected, 2 * GRADIENT_TOLERANCE)
        faults += [f"{where}: {fault}" for fault in comparison.faults]
        losses = [relative_difference(answers[f"{number}/{name}"], loss_sum / weight) for name in ("loss", "eval_loss")]
        if not max(losses) <= LOSS_TOLERANCE:
            faults.append(f"{where}: the loss is {answers[f'{number}/loss']}; gradient.onnx has {loss_sum / weight}")
        records.append(
            OrtParitySpec(
                batch=probe["input_ids"].shape[0],
                sequence=probe["input_ids"].shape[1],
                loss_relative=max(losses),
                gradient_relative=comparison.worst,
            )
        )
    if faults:
        raise ParityError(
            f"the official artifacts do not compute what gradient.onnx computes; nothing was written{listed(faults)}"
        )
    return tuple(records)
