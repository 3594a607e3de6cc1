"""What is carried across the boundary of small graphs, and what is computed again behind it."""

import onnx_ir as ir
import pytest
import sympy
import torch

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering.builder import GraphBuilder
from fieldtune_offline.passes.cheapest_boundary import cheapest_boundary, frozen_nodes, reads_batch

BATCH = sympy.Symbol("batch")
FLOAT = torch.float32


class Small:
    """A graph under construction: frozen layers of given widths, then a product with theta."""

    def __init__(self, *, width=256):
        self.build = GraphBuilder()
        self.inputs = [
            self.build.source("pixels", FLOAT, [BATCH, width]),
            self.build.source("mask", torch.int64, [BATCH, width]),
        ]
        self.pixels, self.mask = self.inputs

    def layer(self, x, width, name):
        weight = self.build.source(name, FLOAT, [width, x.dims[-1]])
        return self.build.op("Gemm", [x, weight], FLOAT, [BATCH, width], transA=0, transB=1)

    def adapted(self, x, width):
        """Return the product of x with theta, which nothing frozen can replace."""
        theta = self.build.source("theta", FLOAT, [x.dims[-1], width])
        self.inputs.append(theta)
        return self.build.op("MatMul", [x, theta], FLOAT, [BATCH, width])

    def graph(self, *outputs):
        return ir.Graph(
            [tensor.value for tensor in self.inputs],
            [tensor.value for tensor in outputs],
            nodes=self.build.nodes,
            opset_imports={"": 18},
            name="gradient",
        )


def test_the_input_of_an_adapted_layer_is_carried_and_its_frozen_product_computed_again():
    small = Small()
    hidden = small.layer(small.pixels, 32, "first")
    frozen = small.layer(hidden, 64, "second")
    total = small.build.op("Add", [frozen, small.adapted(hidden, 64)], FLOAT, [BATCH, 64])
    assert cheapest_boundary(small.graph(total), {"theta"}) == [hidden.value]


def test_a_product_that_costs_more_than_its_bytes_is_carried_as_well():
    small = Small(width=4096)
    hidden = small.layer(small.pixels, 1024, "first")
    frozen = small.layer(hidden, 1, "second")  # 1,024 multiply-accumulates against 4 bytes
    total = small.build.op("Add", [frozen, small.adapted(hidden, 1)], FLOAT, [BATCH, 1])
    assert cheapest_boundary(small.graph(total), {"theta"}) == [hidden.value, frozen.value]


def test_what_derives_from_a_mask_is_computed_again():
    small = Small()
    hidden = small.layer(small.pixels, 32, "first")
    seen = small.build.cast(small.mask, FLOAT)
    result = small.adapted(hidden, 256)
    masked = small.build.op("Mul", [result, seen], FLOAT, [BATCH, 256])
    assert cheapest_boundary(small.graph(masked), {"theta"}) == [hidden.value]


def test_a_value_whose_first_axis_is_not_the_batch_is_not_carried():
    small = Small()
    hidden = small.layer(small.pixels, 32, "first")
    turned = small.build.transpose(hidden, [1, 0])
    theta = small.build.source("theta", FLOAT, [BATCH, 4])
    small.inputs.append(theta)
    result = small.build.op("MatMul", [turned, theta], FLOAT, [32, 4])
    assert cheapest_boundary(small.graph(result), {"theta"}) == [hidden.value]


def test_a_node_that_was_made_and_is_not_needed_asks_for_nothing():
    small = Small()
    early = small.layer(small.pixels, 512, "first")
    hidden = small.layer(early, 32, "second")
    result = small.adapted(hidden, 8)
    graph = small.graph(result)
    ir.node("Identity", [early.value])  # uses it, and is in no graph
    assert cheapest_boundary(graph, {"theta"}) == [hidden.value]


def test_the_number_of_samples_is_read_from_the_boundary():
    small = Small()
    hidden = small.layer(small.pixels, 32, "first")
    count = small.build.op("Shape", [small.pixels], torch.int64, [1], start=0, end=1)
    assert reads_batch(count.value.producer())
    sizes = small.build.op("Expand", [small.adapted(hidden, 1), count], FLOAT, [BATCH, 1])
    assert cheapest_boundary(small.graph(sizes), {"theta"}) == [hidden.value]
    width = small.build.op("Shape", [small.pixels], torch.int64, [1], start=1, end=2)
    assert not reads_batch(width.value.producer())


def test_adapters_at_the_input_leave_nothing_to_cut_off():
    small = Small()
    result = small.layer(small.adapted(small.pixels, 64), 8, "head")
    with pytest.raises(UnsupportedModel, match="nothing worth a split"):
        cheapest_boundary(small.graph(result), {"theta"})


def test_frozen_nodes_depend_on_nothing_that_is_trained():
    small = Small()
    hidden = small.layer(small.pixels, 32, "first")
    result = small.adapted(hidden, 8)
    graph = small.graph(result)
    assert frozen_nodes(graph, {"theta"}) == [hidden.value.producer()]
    assert frozen_nodes(graph, set()) == list(graph)
