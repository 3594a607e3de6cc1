"""The official backend beside the portable one, on a training build of ONNX Runtime: same states, same batches."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("tyro")

from fieldtune.adapters.arrays import from_theta, to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.manifest import IGNORE_INDEX
from fieldtune.bundle.opening import file_spec, open_bundle
from fieldtune.cli import main
from fieldtune.data.batches import batch_of
from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.data.tokenizing import load_tokenizer
from fieldtune.errors import CheckpointError, CorruptFile, InvalidBundle
from fieldtune.hardware.installed import features
from fieldtune.runtime.providers import choose_provider
from fieldtune.serving.runner import Runner
from fieldtune.training.backends.choice import choose_backend, open_backend
from fieldtune.training.backends.optimizers import AdamWConfig

TINY = ("tiny-classifier", "static-classifier", "tiny-lm")
STEPS = 20
RATE = 2e-3
# Both runtimes sum in float32, each in its own order; losses and norms were seen to differ by 8e-7 of themselves. AdamW
# divides a gradient by its own size, so rounding in a gradient near zero moves theta by a part of the rate: from the
# perturbed adapter by up to 7e-8, from B = 0, where gradients of A begin near zero, by up to 2e-6.
THETA_TOLERANCE = 5e-6
LOSS_TOLERANCE = 2e-6
NORM_TOLERANCE = 5e-6
ADAMW = AdamWConfig(weight_decay=0.1)


@pytest.fixture
def backend(official, profile):
    """The function that opens a backend on a bundle at the perturbed adapter, or at another theta."""

    def make(kind, bundle, theta=None, *, optimizer=ADAMW, max_grad_norm=1.0):
        choice = choose_provider(profile, features().providers)
        start = _perturbed(bundle) if theta is None else theta
        return open_backend(kind, bundle, choice, start, optimizer, max_grad_norm)

    return make


def _perturbed(bundle):
    # At B = 0 every gradient of A is zero.
    theta = to_theta(read_adapter(bundle.adapter_path), bundle.manifest)
    return theta + np.random.default_rng(5).normal(0, 0.05, theta.shape).astype(np.float32)


def _batch(bundle, rng, lengths, *, unlabelled=()):
    """A batch of random texts of some lengths, and its weight.

    Rows named in ``unlabelled`` have no label, other texts have masked ones.
    """
    manifest, examples = bundle.manifest, []
    for row, length in enumerate(lengths):
        ids = rng.integers(5, 100, length)
        if manifest.task.labels:
            label = np.array(-100 if row in unlabelled else rng.integers(0, len(manifest.task.labels)), np.int64)
        else:
            masked = length if row in unlabelled else length // 3
            label = np.where(np.arange(length) < masked, -100, ids)
        examples.append(_encoded(ids, label))
    return _batch_of(bundle, examples, np.arange(len(lengths)))


def _encoded(ids, label):
    """A text with one label, or one a token: the first token is predicted by nothing."""
    weight = int(np.count_nonzero(label[1:] != IGNORE_INDEX if label.ndim else label != IGNORE_INDEX))
    return Encoded(arrays={"input_ids": ids, "labels": label}, weight=weight, length=len(ids))


def _batch_of(bundle, examples, indices):
    batch = batch_of(examples, indices, bundle.manifest.graphs["gradient"].inputs)
    return batch, EncodedSet(examples=tuple(examples)).weight(indices)


def _steps(bundle, count=STEPS):
    """The microbatches of each step and its rate: unequal ones, padding, rows without a label, a first rate of 0."""
    rng = np.random.default_rng(11)
    steps = []
    for number in range(count):
        microbatches = [_batch(bundle, rng, (9, 6, 3))]
        if number % 2:
            microbatches.append(_batch(bundle, rng, (13, 2, 7, 5), unlabelled=(1,)))
        if number % 3 == 0:
            microbatches.append(_batch(bundle, rng, (4,)))
        steps.append((microbatches, RATE if number else 0.0))
    return steps


def _train(backend, steps):
    """Return the mean loss and the norm of each step."""
    found = []
    for microbatches, rate in steps:
        sums = [backend.accumulate(batch, weight) for batch, weight in microbatches]
        loss = sum(each.loss for each in sums) / sum(each.weight for each in sums)
        found.append((loss, backend.update(rate)))
    return np.array(found)


def _same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("name", TINY)
def test_both_backends_take_the_same_steps(name, official, backend):
    bundle = official(name)
    portable, ours = backend("portable", bundle), backend("ort-training", bundle)
    assert (portable.name, ours.name) == ("portable", "ort-training")
    before = ours.theta()
    np.testing.assert_array_equal(before, portable.theta())
    steps = _steps(bundle)
    np.testing.assert_allclose(_train(ours, steps[:1]), _train(portable, steps[:1]), rtol=LOSS_TOLERANCE)
    # At a rate of 0 theta stays, and the moments begin.
    np.testing.assert_array_equal(ours.theta(), before)
    assert ours.state()["step"] == portable.state()["step"] == 1
    found, expected = _train(ours, steps[1:]), _train(portable, steps[1:])
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=NORM_TOLERANCE)
    np.testing.assert_allclose(ours.theta(), portable.theta(), rtol=0, atol=THETA_TOLERANCE)
    assert np.abs(ours.theta() - before).max() > 10 * RATE
    states = ours.state(), portable.state()
    assert states[0]["step"] == states[1]["step"] == STEPS
    for moment in ("mean", "mean_square"):
        largest = np.abs(states[1][moment]).max()
        np.testing.assert_allclose(states[0][moment], states[1][moment], rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("name", TINY)
def test_both_backends_evaluate_alike(name, official, backend):
    bundle = official(name)
    portable, ours = backend("portable", bundle), backend("ort-training", bundle)
    rng = np.random.default_rng(1)
    for lengths, unlabelled in (((9, 6, 3), ()), ((8, 12), (0,)), ((5,), ())):
        batch = _batch(bundle, rng, lengths, unlabelled=unlabelled)
        loss, weight, found = ours.evaluate(*batch)
        expected_loss, expected_weight, expected = portable.evaluate(*batch)
        assert loss == pytest.approx(expected_loss, rel=LOSS_TOLERANCE)
        assert weight == expected_weight == batch[1]
        assert list(found) == list(expected)
        for output, values in expected.items():
            np.testing.assert_allclose(found[output], values, rtol=1e-5, atol=1e-5)


def test_an_evaluation_leaves_what_was_accumulated(official, backend):
    bundle = official("tiny-classifier")
    undisturbed, ours = backend("ort-training", bundle), backend("ort-training", bundle)
    first, second = (_batch(bundle, np.random.default_rng(seed), (7, 4)) for seed in (1, 2))
    for each in (undisturbed, ours):
        each.accumulate(*first)
    ours.evaluate(*second)
    for each in (undisturbed, ours):
        each.accumulate(*second)
        each.update(RATE)
    np.testing.assert_array_equal(ours.theta(), undisturbed.theta())


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kinds", [("portable", "ort-training"), ("ort-training", "portable")], ids=lambda k: k[0])
def test_a_run_goes_on_in_the_other_backend(name, kinds, official, backend):
    bundle = official(name)
    steps = _steps(bundle)
    first, second, unswitched = (backend(kind, bundle) for kind in (*kinds, kinds[1]))
    expected = _train(unswitched, steps)
    losses = [_train(first, steps[:10])]
    second.accumulate(*steps[0][0][0])  # what is held is dropped
    second.load_theta(first.theta())
    second.load_state(first.state())
    np.testing.assert_array_equal(second.theta(), first.theta())
    _same_state(second.state(), first.state())
    losses.append(_train(second, steps[10:]))
    np.testing.assert_allclose(np.concatenate(losses)[:, 0], expected[:, 0], rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(second.theta(), unswitched.theta(), rtol=0, atol=THETA_TOLERANCE)
    assert second.state()["step"] == STEPS


@pytest.mark.parametrize("name", TINY)
def test_theta_and_state_come_back_bit_for_bit(name, official, backend):
    bundle = official(name)
    steps = _steps(bundle)
    ours, other = backend("ort-training", bundle), backend("ort-training", bundle)
    _train(ours, steps[:5])
    theta, state = ours.theta(), ours.state()
    assert state["step"] == 5
    assert np.count_nonzero(state["mean_square"]) > 0.9 * theta.size
    other.load_theta(theta)
    other.load_state(state)
    # Saving, and twice, changes nothing; loading the own state neither.
    ours.load_state(ours.state())
    for each in (ours, other):
        np.testing.assert_array_equal(each.theta(), theta)
        _same_state(each.state(), state)
    np.testing.assert_array_equal(_train(ours, steps[5:8]), _train(other, steps[5:8]))
    np.testing.assert_array_equal(ours.theta(), other.theta())
    # A copy: it does not move with the steps since.
    assert not np.array_equal(theta, ours.theta())


def test_a_fresh_backend_starts_at_step_0(official, backend):
    state = backend("ort-training", official("tiny-classifier")).state()
    assert state["step"] == 0
    assert not state["mean"].any()
    assert not state["mean_square"].any()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("mean"), "mean: missing"),
        (lambda state: state.update(momentum=state["mean"]), "momentum: unknown to AdamW"),
        (lambda state: state.update(mean=state["mean"][:-1]), r"mean: float32 \(\d+,\); expected float32"),
        (lambda state: state.update(mean=state["mean"].astype(np.float64)), "mean: float64"),
        (lambda state: state.update(step=np.zeros(2, np.int64)), r"step: int64 \(2,\)"),
        (lambda state: state.clear(), "mean_square: missing"),
    ],
)
def test_a_state_of_something_else_is_refused_and_harms_nothing(change, fault, official, backend):
    bundle = official("tiny-classifier")
    steps = _steps(bundle, 8)
    ours, undisturbed = backend("ort-training", bundle), backend("ort-training", bundle)
    for each in (ours, undisturbed):
        _train(each, steps[:4])
    state = ours.state()
    change(state)
    with pytest.raises(CheckpointError, match=fault):
        ours.load_state(state)
    np.testing.assert_array_equal(_train(ours, steps[4:]), _train(undisturbed, steps[4:]))
    np.testing.assert_array_equal(ours.theta(), undisturbed.theta())
    _same_state(ours.state(), undisturbed.state())


@pytest.mark.parametrize("kind", ["portable", "ort-training"])
def test_a_microbatch_without_a_label_adds_nothing(kind, official, backend):
    bundle = official("tiny-lm")
    rng = np.random.default_rng(3)
    batch, empty = _batch(bundle, rng, (8, 5)), _batch(bundle, rng, (6, 4), unlabelled=(0, 1))
    ours, without = backend(kind, bundle), backend(kind, bundle)
    assert ours.accumulate(*empty) == (0.0, 0.0)
    with pytest.raises(ValueError, match="no label has been accumulated"):
        ours.update(RATE)
    ours.accumulate(*empty)
    assert ours.accumulate(*batch) == without.accumulate(*batch)
    ours.accumulate(*empty)
    assert ours.update(RATE) == without.update(RATE)
    assert np.isfinite(ours.theta()).all()
    np.testing.assert_array_equal(ours.theta(), without.theta())


def test_a_gradient_that_is_not_finite_changes_nothing(official, backend):
    bundle = official("tiny-classifier")
    theta = _perturbed(bundle)
    theta[0] = np.inf
    batch = _batch(bundle, np.random.default_rng(0), (8, 5))
    for kind in ("portable", "ort-training"):
        ours = backend(kind, bundle, theta)
        ours.accumulate(*batch)
        assert not math.isfinite(ours.update(RATE))
        np.testing.assert_array_equal(ours.theta(), theta)
        assert ours.state()["step"] == 0
        # What was held is gone: the next step is that of a whole theta.
        ours.load_theta(_perturbed(bundle))
        ours.accumulate(*batch)
        assert math.isfinite(ours.update(RATE))


def test_only_the_adapter_is_trained(official):
    from fieldtune.training.backends.training_api import import_training

    api = import_training("api")
    bundle = official("tiny-lm")
    state = api.CheckpointState.load_checkpoint(str(bundle.root / bundle.manifest.ort_training.checkpoint))
    trained = {name for name, parameter in state.parameters if parameter.requires_grad}
    assert trained == {parameter.key for parameter in bundle.manifest.layout.parameters}
    frozen = [parameter for name, parameter in state.parameters if name not in trained]
    # Embedding, two layers of seven matrices and two norms each, the last norm.
    assert len(frozen) >= 15


# --- files that are not what they should be ---


@pytest.fixture
def damaged(official, tmp_path):
    """The function that copies a bundle, replaces one of its artifacts, and sets the digest to the new bytes."""

    def make(name, artifact, content, *, digest=True):
        folder = tmp_path / "bundle"
        shutil.copytree(official(name).root, folder)
        path = folder / "ort_training" / artifact
        path.write_bytes(content(path))
        if digest:
            data = json.loads((folder / "manifest.json").read_text())
            data["files"][f"ort_training/{artifact}"] = dataclasses.asdict(file_spec(path))
            (folder / "manifest.json").write_text(json.dumps(data))
        return folder

    return make


@pytest.mark.parametrize("name", ["checkpoint", "training_model.onnx", "nominal_checkpoint"])
def test_an_artifact_with_other_bytes_is_found_on_opening(name, damaged):
    with pytest.raises(CorruptFile, match=rf"ort_training/{name}: \d+ bytes; expected"):
        open_bundle(damaged("tiny-classifier", name, lambda path: path.read_bytes()[:-9], digest=False))


@pytest.mark.parametrize(
    ("artifact", "content"),
    [
        pytest.param("checkpoint", lambda path: path.read_bytes()[: path.stat().st_size // 2], id="half"),
        pytest.param("checkpoint", lambda path: path.read_bytes()[:40], id="head"),
        pytest.param("checkpoint", lambda path: b"", id="empty"),
        pytest.param("checkpoint", lambda path: b"no checkpoint at all" * 20, id="foreign"),
        pytest.param("checkpoint", lambda path: path.with_name("training_model.onnx").read_bytes(), id="graph"),
        pytest.param("training_model.onnx", lambda path: path.read_bytes()[:2000], id="half-graph"),
        pytest.param(
            "training_model.onnx", lambda path: path.with_name("optimizer_model.onnx").read_bytes(), id="other-graph"
        ),
        pytest.param("optimizer_model.onnx", lambda path: b"", id="no-optimizer"),
    ],
)
def test_a_foreign_file_ends_in_one_line_and_no_crash(artifact, content, damaged, reviews, write_rows, tmp_path):
    folder = damaged("tiny-classifier", artifact, content)
    arguments = ["train", str(folder), "--data", str(write_rows(reviews(4))), "--out", str(tmp_path / "out")]
    program = "import sys; from fieldtune.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments, "--backend", "ort-training"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found
    assert "Traceback" not in found.stderr
    assert f"{folder}: ONNX Runtime's training API cannot load ort_training" in found.stderr
    assert found.stderr.splitlines()[-1].startswith("fieldtune: error:")
    assert not (tmp_path / "out").exists()


def test_artifacts_of_another_bundle_are_refused(damaged, official, backend):
    other = official("tiny-lm").root / "ort_training"
    folder = damaged("tiny-classifier", "checkpoint", lambda path: (other / "checkpoint").read_bytes())
    with pytest.raises(InvalidBundle, match="training API cannot load ort_training"):
        backend("ort-training", open_bundle(folder))


# --- the training API without torch and onnx ---

BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript", "transformers", "peft"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""


def _python(program, *arguments):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_training_needs_neither_torch_nor_onnx(official, reviews, write_rows, tmp_path):
    program = BLOCKED + (
        "from fieldtune.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert 'onnxruntime.training.api' in sys.modules\n"
        "assert not {'torch', 'onnx', 'onnxruntime.training'} & set(sys.modules)\n"
    )
    bundle, data = official("tiny-classifier").root, write_rows(reviews(8))
    arguments = ("train", bundle, "--data", data, "--eval", data, "--out", tmp_path / "out", "--epochs", "1")
    found = _python(program, *arguments, "--backend", "ort-training")
    assert found.returncode == 0, found.stderr
    assert "backend: ort-training, as asked for" in found.stderr
    assert read_adapter(tmp_path / "out").card.training["steps"] == 1


def test_the_detour_to_the_training_api_leaves_no_trace(official):
    official("tiny-classifier")
    program = BLOCKED + (
        "import onnxruntime\n"
        "from fieldtune.training.backends.training_api import import_training\n"
        "api = import_training('api')\n"
        "assert api is import_training('api')\n"
        "assert api.Module and api.Optimizer and api.CheckpointState\n"
        "assert 'onnxruntime.training' not in sys.modules\n"
        "assert not hasattr(onnxruntime, 'training')\n"
        "try:\n"
        "    import onnxruntime.training\n"
        "except ModuleNotFoundError as error:\n"
        "    assert error.name in ('onnx', 'torch')\n"
        "    print('found the real package, which wants', error.name)\n"
    )
    found = _python(program)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("found the real package, which wants")


# --- the nominal checkpoint ---


def test_a_nominal_checkpoint_becomes_whole_by_the_weights_that_arrive(official):
    from fieldtune.training.backends.training_api import import_training

    api = import_training("api")
    bundle = official("tiny-classifier")
    artifacts = bundle.manifest.ort_training

    def load(checkpoint):
        state = api.CheckpointState.load_checkpoint(str(bundle.root / checkpoint))
        paths = (str(bundle.root / path) for path in (artifacts.training_model, artifacts.eval_model))
        training, evaluation = paths
        return state, api.Module(training, state, evaluation)

    (whole, sender), (nominal, receiver) = load(artifacts.checkpoint), load(artifacts.nominal_checkpoint)
    assert (bundle.root / artifacts.nominal_checkpoint).stat().st_size < 0.2 * sum(
        parameter.data.nbytes for _, parameter in whole.parameters
    )
    theta = _perturbed(bundle)
    for key, values in bundle.manifest.layout.views(theta).items():
        whole.parameters[key] = np.ascontiguousarray(values)
    weights = sender.get_contiguous_parameters(trainable_only=False)
    receiver.copy_buffer_to_parameters(weights, trainable_only=False)
    for key, values in bundle.manifest.layout.views(theta).items():
        np.testing.assert_array_equal(nominal.parameters[key].data, values)
    batch, _ = _batch(bundle, np.random.default_rng(2), (8, 5))
    losses = []
    for module in (sender, receiver):
        module.eval()
        losses.append(module(*(batch[name] for name in module.input_names()))[0])
    assert losses[0] == losses[1]
    assert losses[0] > 0.1


# --- the command ---


@pytest.fixture
def arguments(official, reviews, write_rows, tmp_path):
    """What ``train`` needs, with the output in ``out``."""
    bundle, data = official("tiny-classifier").root, write_rows(reviews(16))
    return [
        "train", str(bundle), "--data", str(data), "--eval", str(data), "--out", str(tmp_path / "out"), "--epochs", "2",
        "--batch-size", "4", "--gradient-accumulation", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said", "name"),
    [
        ([], "backend: ort-training, ONNX Runtime {} is a training build, and the bundle has", "ort-training"),
        (["--backend", "auto"], "backend: ort-training, ONNX Runtime {} is a training build", "ort-training"),
        (["--backend", "ort-training"], "backend: ort-training, as asked for", "ort-training"),
        (["--backend", "portable"], "backend: portable, as asked for", "portable"),
        (["--optimizer", "sgd"], "backend: portable, the official artifacts' optimizer is AdamW", "portable"),
    ],
    ids=["default", "auto", "ort-training", "portable", "sgd"],
)
def test_the_command_says_which_backend_it_takes_and_why(flags, said, name, arguments, tmp_path, capsys):
    assert main([*arguments, *flags]) == 0
    assert said.format(features().version) in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "train_report.json").read_text())
    assert report["backend"]["name"] == name
    adapter = read_adapter(tmp_path / "out")
    assert adapter.card.training["steps"] == 8
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_both_backends_write_the_same_adapter(arguments, official, tmp_path):
    found = {}
    for kind in ("portable", "ort-training"):
        arguments[arguments.index("--out") + 1] = str(tmp_path / kind)
        assert main([*arguments, "--backend", kind]) == 0
        report = json.loads((tmp_path / kind / "train_report.json").read_text())
        losses = [step["loss"] for step in report["steps"]]
        accuracies = [record["evaluation"]["accuracy"] for record in report["evaluations"]]
        found[kind] = losses, accuracies, read_adapter(tmp_path / kind)
    portable, ours = found.values()
    np.testing.assert_allclose(ours[0], portable[0], rtol=LOSS_TOLERANCE)
    assert ours[1] == portable[1]
    manifest = official("tiny-classifier").manifest
    np.testing.assert_allclose(
        to_theta(ours[2], manifest), to_theta(portable[2], manifest), rtol=0, atol=THETA_TOLERANCE
    )
    assert ours[2].config == portable[2].config


def test_sgd_by_the_official_backend_is_one_clear_error(arguments, tmp_path, capsys):
    assert main([*arguments, "--backend", "ort-training", "--optimizer", "sgd"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("fieldtune: error:") == 1
    assert "the official artifacts' optimizer is AdamW: --optimizer adamw" in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_a_profile_names_the_backend_and_the_flag_wins(arguments, tmp_path, capsys):
    profile = tmp_path / "mine.toml"
    required = 'format_version = "1.0"\nname = "mine"\ntitle = "Mine"\nsource = []\n'
    profile.write_text(f'{required}[training]\nbackend = "portable"\n')
    assert main([*arguments, "--profile", str(profile)]) == 0
    assert "backend: portable, as asked for" in capsys.readouterr().err
    assert main([*arguments, "--profile", str(profile), "--backend", "ort-training", "--overwrite"]) == 0
    assert "backend: ort-training, as asked for" in capsys.readouterr().err


def test_a_bundle_without_artifacts_is_trained_by_the_portable_backend(official, arguments, tmp_path, capsys):
    folder = tmp_path / "bundle"
    shutil.copytree(official("tiny-classifier").root, folder)
    shutil.rmtree(folder / "ort_training")
    data = json.loads((folder / "manifest.json").read_text())
    data["ort_training"] = None
    data["files"] = {name: spec for name, spec in data["files"].items() if not name.startswith("ort_training/")}
    (folder / "manifest.json").write_text(json.dumps(data))
    arguments[1] = str(folder)
    assert main(arguments) == 0
    assert "backend: portable, the bundle has no official training artifacts" in capsys.readouterr().err
    assert main([*arguments, "--backend", "ort-training", "--overwrite"]) == 1
    assert f"fieldtune-offline export-ort {folder}" in capsys.readouterr().err


def test_the_choice_is_that_of_the_runtime_at_hand(official, profile):
    choice = choose_provider(profile, features().providers)
    found = choose_backend("auto", features(), choice, official("tiny-lm"), ADAMW)
    assert found.name == "ort-training"


# --- real models ---

REAL_STEPS, SWITCH = 50, 25
REAL_RATE = 1e-3
REAL_TOLERANCE = 1e-3
REAL = [
    pytest.param("real-minilm", 4, ("portable", "ort-training"), id="minilm-to-ort"),
    pytest.param("real-minilm", 4, ("ort-training", "portable"), id="minilm-to-portable"),
    pytest.param("real-smollm2", 2, ("portable", "ort-training"), id="smollm2-to-ort"),
]


QUESTIONS = (
    ("How do I reset the pump?", "Hold the green button for five seconds."),
    ("What does error 42 mean?", "The filter is full; rinse it under warm water."),
    ("Can it run overnight?", "Yes, at half speed."),
    ("Who may open the cabinet?", "Only staff with the blue key."),
    ("Where is the spare fuse?", "It is in the lid of the box."),
    ("Is the noise normal?", "No, tighten the two screws at the back."),
    ("How long does a charge last?", "About nine hours, less in the cold."),
    ("Which oil does it need?", "None at all."),
)


def _real_steps(bundle, rows):
    """Fifty batches of English that come again and again, at rates that rise from 0 and fall again."""
    manifest, tokenizer = bundle.manifest, load_tokenizer(bundle.tokenizer_path)
    examples = []
    for number, (question, answer) in enumerate(QUESTIONS):
        asked, told = (np.array(tokenizer.encode(text).ids, np.int64) for text in (question, f" {answer}"))
        if manifest.task.labels:
            # The last row of each batch has no label.
            label = np.array(-100 if number % rows == rows - 1 else number % 2, np.int64)
            examples.append(_encoded(asked[:24], label))
        else:
            labels = np.concatenate([np.full(len(asked), -100), told])
            examples.append(_encoded(np.concatenate([asked, told])[:24], labels[:24]))
    batches = [_batch_of(bundle, examples, range(start, start + rows)) for start in range(0, len(examples), rows)]
    assert any((batch["attention_mask"] == 0).any() for batch, _ in batches)
    assert all((batch["labels"] == -100).any() for batch, _ in batches)
    rates = [REAL_RATE * min(number / 3, (REAL_STEPS - number) / (REAL_STEPS - 3)) for number in range(REAL_STEPS)]
    return [([batches[number % len(batches)]], rate) for number, rate in enumerate(rates)]


@pytest.fixture(scope="session")
def real_runs():
    """What unswitched runs on real models gave, by bundle and backend: they serve two tests."""
    return {}


@pytest.fixture
def real_run(official, backend, real_runs):
    """The function from a bundle's name, a batch's rows and one or two backends to losses and the adapter's logits."""

    def run(name, rows, *kinds):
        if (name, kinds) in real_runs:
            return real_runs[name, kinds]
        bundle = official(name)
        steps = _real_steps(bundle, rows)
        initial = to_theta(read_adapter(bundle.adapter_path), bundle.manifest)
        ours = backend(kinds[0], bundle, initial)
        losses = [_train(ours, steps[:SWITCH])]
        if len(kinds) == 2:
            theta, state, ours = ours.theta(), ours.state(), None  # one model at a time in memory
            ours = backend(kinds[1], bundle, theta)
            ours.load_state(state)
        losses.append(_train(ours, steps[SWITCH:]))
        assert ours.state()["step"] == REAL_STEPS
        theta, ours = ours.theta(), None
        real_runs[name, kinds] = np.concatenate(losses)[:, 0], _logits(bundle, theta, steps)
        return real_runs[name, kinds]

    return run


def _logits(bundle, theta, steps):
    """The logits that infer.onnx computes with theta as an adapter, on the batches that were trained on."""
    from fieldtune.hardware import load_profile

    manifest, initial = bundle.manifest, read_adapter(bundle.adapter_path)
    runner = Runner(bundle, load_profile("cpu-generic"))
    loaded = runner.load_adapter(from_theta(theta, manifest, initial, manifest.task.labels, None))
    found = []
    for microbatches, _ in steps[:4]:
        batch, _ = microbatches[0]
        mask = batch["attention_mask"] == 1
        logits = runner.run(_inference_batch(runner.graph, batch), loaded)["logits"]
        # What stands at padding is nobody's.
        found.append(logits[mask] if logits.ndim == 3 and logits.shape[:2] == mask.shape else logits)
    return np.concatenate([each.reshape(-1, each.shape[-1]) for each in found])


def _inference_batch(graph, batch):
    """The batch as infer.onnx takes it: with an empty cache, where the model has one."""
    sizes = dict(zip(("batch", "sequence"), batch["input_ids"].shape, strict=True))
    fed = {}
    for spec in graph.inputs:
        if spec.name in batch:
            fed[spec.name] = batch[spec.name]
        elif spec.name == "position_ids":
            fed[spec.name] = np.maximum(batch["attention_mask"].cumsum(axis=1) - 1, 0)
        else:
            shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in spec.shape]
            fed[spec.name] = np.zeros(shape, spec.dtype)
    return fed


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows", "switch"), REAL)
def test_real_models_learn_the_same_with_both_backends_and_over_a_switch(name, rows, switch, real_run):
    expected, expected_logits = real_run(name, rows, "portable")
    assert len(expected) == REAL_STEPS
    assert expected[-4:].mean() < 0.7 * expected[:4].mean(), "nothing was learned, so nothing is compared"
    largest = np.abs(expected_logits).max()
    for kinds in (("ort-training",), switch):
        losses, logits = real_run(name, rows, *kinds)
        np.testing.assert_allclose(losses, expected, rtol=0, atol=REAL_TOLERANCE, err_msg=str(kinds))
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=REAL_TOLERANCE * largest, err_msg=str(kinds))
