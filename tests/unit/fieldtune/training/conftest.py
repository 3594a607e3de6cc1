"""A run's report and a manifest, made by hand."""

import pytest

import builders
from builders import base_model, graph_spec, tensor_spec, text_spec
from fieldtune.hardware import load_profile


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
    return builders.evaluation


@pytest.fixture
def report():
    """The function that makes a report of 40 steps with two evaluations, and changes to it."""
    return builders.train_report
