"""A run's report and a manifest, made by hand."""

import dataclasses

import pytest

import builders
from builders import adapter, base_model, graph_spec, tensor_spec, text_spec
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider
from fieldtune.tasks.interface import Figure
from fieldtune.training.backends.choice import BackendChoice
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import DataCounts, EpochRecord, EvaluationRecord, StepRecord
from fieldtune.training.report import Subject, TrainReport


@pytest.fixture
def profile():
    return load_profile("cpu-generic")


@pytest.fixture
def manifest():
    """The function that makes a manifest whose gradient graph takes batches of a shape."""

    def make(batch="batch", sequence="sequence", max_length=64):
        ids = tensor_spec("input_ids", batch, sequence, dtype="int64")
        return builders.manifest(
            base=base_model(id="b", architecture="B", licence="MIT"),
            labels=("no", "yes"),
            text=text_spec(max_length=max_length),
            graphs={"gradient": graph_spec("gradient", inputs=(ids,))},
        )

    return make


@pytest.fixture
def evaluation():
    """The function that makes an evaluation."""

    def make(loss, accuracy):
        figures = (
            Figure(name="accuracy", value=accuracy, unit="%"),
            Figure(name="majority_accuracy", value=0.6, unit="%", better=None, title="majority class"),
        )
        return Evaluation(examples=10, labels=10, loss=loss, figures=figures, seconds=0.5)

    return make


@pytest.fixture
def report(profile, manifest, evaluation):
    """The function that makes a report of 40 steps with two evaluations, and changes to it."""

    def make(**changes):
        steps = tuple(
            StepRecord(step=n, epoch=n / 20, loss=1 / n, labels=8, learning_rate=0.01, gradient_norm=1.0)
            for n in range(1, 41)
        )
        made = TrainReport(
            adapter=adapter(),
            kept_step=40,
            stopped="completed",
            subject=Subject.of(manifest(), ("no", "<yes>")),
            config=TrainConfig(batch_size=8, gradient_accumulation=1, max_length=64),
            profile=profile.name,
            provider=choose_provider(profile, ["CPUExecutionProvider"]),
            backend=BackendChoice(name="portable", reason="as asked for"),
            placement=None,
            split=None,
            planned_steps=40,
            steps=steps,
            epochs=(
                EpochRecord(
                    epoch=1, steps=20, seconds=1.25, prefix_seconds=0.0, prefix_emulated=False, cached=0, computed=0
                ),
                EpochRecord(
                    epoch=2, steps=20, seconds=0.75, prefix_seconds=0.0, prefix_emulated=False, cached=0, computed=0
                ),
            ),
            evaluations=(
                EvaluationRecord(step=0, epoch=0.0, evaluation=evaluation(0.7, 0.55)),
                EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(0.4, 0.83)),
            ),
            train_data=DataCounts(examples=160, truncated=3, dropped=0),
            evaluation_data=DataCounts(examples=10, truncated=0, dropped=0),
            skipped_steps=0,
            skipped_microbatches=0,
            tokens=4000,
            training_seconds=2.0,
            seconds=3.0,
            environment={"fieldtune": "0.1.0", "onnxruntime": "1.31.1"},
        )
        return dataclasses.replace(made, **changes)

    return make
