"""A whole program: which of its tensors is which in the graph, and what is refused before anything is made."""

import pytest
import torch
from torch import nn

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.lowering import GraphBuilder, Input, lower_program
from fieldtune_offline.quiet import quiet_tracing

X = Input("x", ("rows", None))


def exported(module):
    """Return a module's program, in core operators, of an input whose rows vary."""
    with quiet_tracing():
        vary = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(module, (torch.ones(4, 3),), dynamic_shapes=vary, strict=False).run_decompositions()


def lowered(program, inputs=(X,), given=None, names=None):
    build = GraphBuilder()
    return build, lower_program(program, list(inputs), build, given=given or {}, names=names or {})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(self.second(self.first(x)))


@pytest.fixture(scope="module")
def net():
    return exported(Net())


def test_inputs_weights_and_outputs_are_told(net):
    build, found = lowered(net)
    assert [(tensor.value.name, list(map(str, tensor.dims))) for tensor in found.inputs] == [("x", ["rows", "3"])]
    assert set(found.weights) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert [list(map(str, tensor.dims)) for tensor in found.outputs] == [["rows", "3"]]
    assert found.gradients == {}
    assert build.nodes[-1].op_type == "Relu"


def test_parameters_of_one_name_are_one_tensor(net):
    names = {"second.weight": "first.weight", "second.bias": "other"}
    _, found = lowered(net, names=names)
    assert set(found.weights) == {"first.weight", "first.bias", "other"}


def test_what_is_given_takes_a_parameters_place(net):
    build = GraphBuilder()
    own = build.source("own", torch.float32, (3, 3))
    found = lower_program(net, [X], build, given={"first.weight": own}, names={})
    assert "first.weight" not in found.weights
    assert any(own.value in node.inputs for node in build.nodes)


def test_nodes_know_the_module_that_they_are_of(net):
    build, _ = lowered(net)
    modules = {node.metadata_props.get("module", "") for node in build.nodes}
    assert any("first" in module for module in modules)
    assert any("second" in module for module in modules)


class Rare(nn.Module):
    def forward(self, x):
        return torch.i0(x) + torch.i0(x + 1) + torch.digamma(x)


def test_every_operator_without_a_lowering_is_named_with_its_count():
    with pytest.raises(UnsupportedModel) as caught:
        lowered(exported(Rare()))
    assert str(caught.value).splitlines() == [
        "the model needs operators that have no ONNX lowering here",
        "  - aten.digamma.default (1 times)",
        "  - aten.i0.default (2 times)",
    ]


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_what_is_random_is_refused():
    with pytest.raises(UnsupportedModel, match="is random; dropout and noise must be off in a training graph"):
        lowered(exported(Random()))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x):
        self.count.add_(1)
        return x + self.count


def test_a_buffer_that_changes_is_refused():
    with pytest.raises(UnsupportedModel, match="the model changes its buffer 'count' while it runs"):
        lowered(exported(Counting()))


class Overwriting(nn.Module):
    """Writes a buffer for the input at hand, and reads it, as long rope does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.ones(3))

    def forward(self, x):
        self.factor.copy_(torch.where(x.sum() > 0, 2.0, -1.0))
        return x * self.factor


def test_a_buffer_that_is_written_before_it_is_read_is_none_that_changes():
    build, found = lowered(exported(Overwriting()))
    assert len(found.outputs) == 1
    read = {value.name for node in build.nodes for value in node.inputs}
    assert "x" in read
    assert "factor" not in read


class Branching(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))


def test_a_sub_graph_is_refused():
    with pytest.raises(UnsupportedModel, match=r"a sub-graph \(torch\.cond, map or scan\) \(2 times\)"):
        lowered(exported(Branching()))


def test_inputs_that_are_not_described_are_the_callers_mistake(net):
    with pytest.raises(ValueError, match="the program has 1 user inputs; 2 were described"):
        lowered(net, inputs=(X, Input("y", ())))
