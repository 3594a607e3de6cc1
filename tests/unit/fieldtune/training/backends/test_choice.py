from pathlib import Path

import pytest

from builders import manifest, runtime_features
from fieldtune.bundle.manifest import OrtTrainingSpec, SplitSpec
from fieldtune.bundle.opening import Bundle
from fieldtune.errors import BackendUnavailable
from fieldtune.runtime.providers import CPU_PROVIDER, ProviderChoice, SessionSettings
from fieldtune.training.backends.choice import BackendChoice, choose_backend
from fieldtune.training.backends.optimizers import AdamWConfig, SGDConfig

SETTINGS = SessionSettings(
    intra_op_threads=1, prepacking=True, arena=True, memory_pattern=True, graph_optimization="all"
)
ARTIFACTS = OrtTrainingSpec(
    training_model="t", eval_model="e", optimizer_model="o", checkpoint="c", nominal_checkpoint="n", runtime="1.19.2",
    parity=(),
)  # fmt: skip


def choose(
    asked, *, training=True, artifacts=True, optimizer=None, provider=CPU_PROVIDER, folder="a", split=False, target=""
):
    described = manifest(
        task="text-generation",
        labels=(),
        ort_training=ARTIFACTS if artifacts else None,
        split=SplitSpec(boundary=()) if split else None,
    )
    features = runtime_features("1.19.2", (), has_training_api=training)
    choice = ProviderChoice(provider=provider, requested=provider, options={}, reason="", session_settings=SETTINGS)
    return choose_backend(
        asked, features, choice, Bundle(Path(folder), described), optimizer or AdamWConfig(), target=target
    )


def test_auto_takes_the_official_backend_where_all_is_there():
    assert choose("auto") == BackendChoice(
        name="ort-training", reason="ONNX Runtime 1.19.2 is a training build, and the bundle has artifacts for it"
    )


OBSTACLES = [
    ({"training": False}, "ONNX Runtime 1.19.2 is not a training build", "fieldtune[ort-training]"),
    ({"artifacts": False}, "the bundle has no official training artifacts", "fieldtune-offline export-ort a"),
    ({"optimizer": SGDConfig()}, "the official artifacts' optimizer is AdamW", "--optimizer adamw"),
    (
        {"target": "DPUCV2DX8G_ISA1_C20B14"},
        "the official artifacts hold the whole model, whose frozen prefix DPUCV2DX8G_ISA1_C20B14 runs",
        "take a profile without an accelerator",
    ),
    (
        {"provider": "VitisAIExecutionProvider"},
        "the official artifacts run on the CPU, and the provider is VitisAIExecutionProvider",
        "take a profile with the provider CPUExecutionProvider",
    ),
]


@pytest.mark.parametrize(("changes", "reason", "_remedy"), OBSTACLES)
def test_auto_takes_the_portable_backend_and_says_what_is_in_the_way(changes, reason, _remedy):
    assert choose("auto", **changes) == BackendChoice(name="portable", reason=reason)


@pytest.mark.parametrize(("changes", "reason", "remedy"), OBSTACLES)
def test_the_official_backend_that_was_asked_for_is_never_replaced(changes, reason, remedy):
    with pytest.raises(BackendUnavailable) as caught:
        choose("ort-training", **changes)
    assert f"{reason}: " in str(caught.value)
    assert remedy in str(caught.value)
    assert "take the backend portable" in str(caught.value)


def test_every_obstacle_is_listed():
    with pytest.raises(BackendUnavailable) as caught:
        choose("ort-training", **{key: value for changes, _, _ in OBSTACLES for key, value in changes.items()})
    assert str(caught.value).count("\n  - ") == len(OBSTACLES)


@pytest.mark.parametrize("asked", ["portable", "ort-training"])
def test_what_was_asked_for_is_taken(asked):
    assert choose(asked) == BackendChoice(name=asked, reason="as asked for")


@pytest.mark.parametrize(("changes", "_reason", "_remedy"), OBSTACLES)
def test_the_portable_backend_needs_nothing(changes, _reason, _remedy):
    assert choose("portable", **changes) == BackendChoice(name="portable", reason="as asked for")


def test_a_split_bundle_is_trained_by_the_backend_that_trains_on_a_split():
    assert choose("auto", split=True) == BackendChoice(
        name="portable", reason="the bundle is split, and only this backend trains on a split"
    )
    assert choose("ort-training", split=True).name == "ort-training"
