"""Where the nodes of real sessions run, read back from every ONNX Runtime that there is."""

import pytest

pytest.importorskip("onnxruntime")

from fieldtune.bundle.dimensions import dimension_sizes
from fieldtune.bundle.node_tables import read_node_table
from fieldtune.placement.readback import describe, match_pieces, open_recorded, profiled_pieces
from fieldtune.runtime.providers import ProviderChoice, SessionSettings
from fieldtune.runtime.session import open_session

CPU = "CPUExecutionProvider"
CHOICE = ProviderChoice(
    provider=CPU, requested=CPU, options={}, session_settings=SessionSettings(graph_optimization="basic"), reason=""
)


@pytest.fixture(params=[("split-vision", "prefix"), ("static-vision", "infer"), ("split-classifier", "prefix")])
def graph(request, opened):
    """A graph of a small bundle: its path, its inputs, its node table and sizes of its symbolic dimensions."""
    bundle, name = opened(request.param[0]), request.param[1]
    spec = bundle.manifest.graphs[name]
    table = read_node_table(bundle.root / spec.nodes)
    return bundle.graph_path(name), spec.inputs, table, dimension_sizes(table, batch=1, sequence=1, rank=1)


def _heavy(table):
    return [index for index, node in enumerate(table.nodes) if node.macs]


def test_what_a_session_of_the_cpu_runs_is_found_in_the_node_table(graph):
    path, inputs, table, sizes = graph
    session, pieces = open_recorded(path, CHOICE, {}, inputs)
    assert {piece.provider for piece in pieces} == {CPU}
    read = match_pieces(table, pieces, sizes)
    assert (read.pieces, read.partitions) == (0, ())
    # Folding and fusing take shapes and constants away, and no product or convolution.
    assert set(_heavy(table)) <= set(read.cpu)
    assert len(session.get_outputs()) == len(table.outputs)


def test_the_profile_of_a_run_tells_the_same(graph, tmp_path):
    path, inputs, table, sizes = graph
    session = open_session(path, CHOICE, profile_prefix=tmp_path / "run")
    pieces = profiled_pieces(session, inputs)
    assert set(_heavy(table)) <= set(match_pieces(table, pieces, sizes).cpu)


def test_a_static_graph_on_the_cpu_has_no_offload(opened):
    bundle = opened("static-vision")
    spec = bundle.manifest.graphs["gradient"]
    table = read_node_table(bundle.root / spec.nodes)
    _, pieces = open_recorded(bundle.graph_path("gradient"), CHOICE, {}, spec.inputs)
    plan = describe(table, match_pieces(table, pieces))
    assert plan.partitions == ()
    assert plan.cpu_macs > 0
    assert plan.offload == 0.0
    assert plan.cpu_operators["Conv"] == sum(node.op == "Conv" for node in table.nodes)
