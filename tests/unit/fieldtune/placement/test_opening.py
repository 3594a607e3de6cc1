"""A graph opened as it is: by the CPU without a word, by another provider only with what it really runs."""

import dataclasses

import numpy as np
import pytest

from builders import (
    CPU,
    Graph,
    altered,
    graph_spec,
    image_spec,
    manifest,
    profile,
    table_text,
    tensor_spec,
    write_bundle,
)
from fieldtune.errors import InvalidBundle, PlacementRefused, ProviderUnavailable
from fieldtune.placement.opening import open_graph
from fieldtune.placement.readback import open_recorded
from fieldtune.runtime.providers import choose_provider

ort = pytest.importorskip("onnxruntime")

AZURE = "AzureExecutionProvider"
"""Most wheels have it, and it takes no operator of a model."""


@pytest.fixture
def bundle(tmp_path, onnx_bytes):
    """The function that writes a bundle of the graph infer: y = relu(x), and changes of its entry."""

    def make(**changes):
        made = Graph()
        table = made.table(
            made.add("Relu", [made.input("x", "batch", 3)], ("batch", 3), name="relu"), name="infer", opset=17
        )
        spec = graph_spec("infer", inputs=(tensor_spec("x", "batch", 3),), outputs=(tensor_spec("y", "batch", 3),))
        spec = dataclasses.replace(spec, **changes)
        contents = {
            spec.path: onnx_bytes("infer (float[batch,3] x) => (float[batch,3] y) { [relu] y = Relu(x) }"),
            spec.nodes: table_text(table).encode(),
        }
        return write_bundle(tmp_path, manifest(image=image_spec(), graphs={"infer": spec}), contents)

    return make


def test_the_cpu_runs_a_graph_and_there_is_nothing_to_report(bundle):
    session, report = open_graph(bundle(), "infer", choose_provider(profile(), [CPU]))
    assert report is None
    (found,) = session.run(["y"], {"x": np.array([[-1, 0, 2]], np.float32)})
    np.testing.assert_array_equal(found, [[0, 0, 2]])


@pytest.mark.parametrize("in_order", [False, True])
def test_a_graph_whose_nodes_are_to_run_in_order_is_opened_so(bundle, in_order):
    made, choice = bundle(in_order=in_order), choose_provider(profile(), [CPU])
    order = ort.ExecutionOrder
    expected = order.PRIORITY_BASED if in_order else order.DEFAULT
    session, _ = open_graph(made, "infer", choice)
    assert session.get_session_options().execution_order == expected
    # So it is where what runs is read back.
    spec = made.manifest.graphs["infer"]
    session, _ = open_recorded(made.graph_path("infer"), choice, {}, spec.inputs, in_order=spec.in_order)
    assert session.get_session_options().execution_order == expected


def test_a_graph_that_needs_a_later_runtime_is_not_opened(bundle):
    with pytest.raises(ProviderUnavailable, match=r"infer\.onnx: needs ONNX Runtime 99\.1 or later"):
        open_graph(bundle(min_ort="99.1"), "infer", choose_provider(profile(), [CPU]))


def test_a_graph_that_is_not_there_is_refused_with_those_that_are(bundle):
    with pytest.raises(InvalidBundle, match="has no graph 'gradient'; it has infer"):
        open_graph(bundle(), "gradient", choose_provider(profile(), [CPU]))


@pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason=f"this ONNX Runtime has no {AZURE}")
def test_a_provider_that_runs_nothing_is_refused_though_onnx_runtime_opens_the_graph(bundle):
    cloud = altered(profile(name="cloud"), execution={"provider": AZURE})
    with pytest.raises(PlacementRefused, match=f"nothing of it runs on {AZURE}; the CPU runs 1 Relu"):
        open_graph(bundle(), "infer", choose_provider(cloud, [CPU, AZURE]))
