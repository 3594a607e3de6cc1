"""Float32 products in the place of packed ones: what they compute, what they take along, and that all comes back."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from fieldtune.errors import ExportError
from fieldtune_offline.graph import packed_weights
from fieldtune_offline.lowering import PACKED
from fieldtune_offline.passes.merged_tensor import unbound
from fieldtune_offline.passes.stand_ins import leave_out, put_back, stand_in
from fieldtune_offline.precisions.int8 import Int8
from fieldtune_offline.precisions.operators import packed_product, packed_rows
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.weights import stored_name
from packed_graphs import RECIPES, Products, furthest, normal, traced_graph

IDS = torch.tensor([[1, 7, 0], [19, 3, 7]])
EVERY = pytest.mark.parametrize("recipe", RECIPES)
SERVING = pytest.mark.parametrize("serving", [False, True], ids=["trains", "serves"])


class Net(nn.Module):
    """Rows of an embedding go into two products, one of them with a bias, and what comes of that into a third one."""

    def __init__(self, recipe):
        super().__init__()
        self.words = Products("int8", normal(20, 80, seed=3))
        self.first, self.second = (Products(recipe, normal(32, 80, seed=seed, scale=0.2)) for seed in (1, 2))
        self.last = Products(recipe, normal(16, 32, seed=4, scale=0.2))
        self.bias = nn.Parameter(normal(32, seed=5))

    def forward(self, ids):
        x = packed_rows(ids, *self.words.parts)
        one, two = (packed_product(x, held.parts, held.recipe, held.rows) for held in (self.first, self.second))
        # As attention has it: more axes than rows and columns.
        heads = torch.tanh(one + self.bias).reshape(2, 3, 4, 8)
        return packed_product(heads.reshape(2, 3, 32), self.last.parts, self.last.recipe, 16), two


def loaded(recipe, serving):
    """Return a graph as it is loaded from a bundle, and what its matrices are packed by."""
    graph = traced_graph(Net(recipe), IDS, axes=((),), serving=serving)
    for value in graph.unbound:
        value.const_value = ir.tensor(graph.weights[stored_name(value.name)].detach().numpy(), name=value.name)
    graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
    recipes = {"words": "int8", **dict.fromkeys(("first", "second", "last"), recipe)}
    return ir.from_proto(ir.to_proto(graph.model)), recipes


def answers(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(np.array(value)) for value in session.run(None, {"x0": IDS.numpy()})]


def unpacked(recipe):
    """Return what torch computes with the unpacked matrices."""
    net = Net(recipe)
    matrices = {}
    for name in ("words", "first", "second", "last"):
        held = getattr(net, name)
        matrices[name] = precision_of(held.recipe).unpack(held.parts, held.rows, held.columns)
    x = matrices["words"][IDS]
    one = torch.tanh(x @ matrices["first"].T + net.bias.detach())
    return [one @ matrices["last"].T, x @ matrices["second"].T]


@EVERY
@SERVING
def test_stand_ins_compute_with_the_unpacked_matrices(recipe, serving):
    model, recipes = loaded(recipe, serving)
    made = stand_in(model, recipes)
    assert sorted(held.weight.name for held in made) == ["first.weight", "last.weight", "second.weight", "words.weight"]
    leave_out(model, made)
    assert [node.op_type for node in model.graph if node.domain == "com.microsoft"] == []
    assert {name for name in model.graph.initializers if name.endswith((".codes", ".scales", ".given"))} == set()
    assert [value.name for value in model.graph.outputs] == ["y0", "y1"]
    assert [value.name for value in model.graph.inputs] == ["x0"]
    for found, expected in zip(answers(model), unpacked(recipe), strict=True):
        assert furthest(found, expected) < 1e-5


@EVERY
@SERVING
def test_a_bias_goes_into_the_stand_in_and_comes_back(recipe, serving):
    model, recipes = loaded(recipe, serving)
    expected = answers(model)
    made = stand_in(model, recipes)
    biases = {held.weight.name: [value.name for value in held.node.inputs[2:]] for held in made}
    assert biases == {"first.weight": ["bias"], "second.weight": [], "last.weight": [], "words.weight": []}
    assert put_back(model, made) == []
    model.graph.inputs.extend(packed_weights(model.graph))
    assert bool(packed_weights(model.graph)) == (not serving)
    assert not [name for name in model.graph.initializers if name.endswith(".weight")]
    for found, value in zip(answers(model), expected, strict=True):
        assert torch.equal(found, value)


@EVERY
@SERVING
def test_a_matrix_that_has_become_another_one_is_to_be_packed_anew(recipe, serving):
    model, recipes = loaded(recipe, serving)
    made = stand_in(model, recipes)
    (second,) = (held for held in made if held.weight.name == "second.weight")
    new = unbound("second.weight", second.weight)
    second.node.replace_input_with(1, new)
    (repacked,) = put_back(model, made)
    assert (repacked.weight, repacked.precision.recipe) == ("second.weight", recipe)
    assert [value.name for value in repacked.parts.values()] == [
        f"second.{part}" for part in precision_of(recipe).part_names
    ]
    # All ones: the parts have dtype and shape of the old ones.
    parts = repacked.precision.pack(torch.ones(32, 80))
    for (part, value), tensor in zip(repacked.parts.items(), parts, strict=True):
        assert bool(value.meta.get(PACKED)) == (not serving)
        assert value.shape.numpy() == tuple(tensor.shape)
        value.const_value = ir.tensor(tensor.numpy(), name=value.name)
        assert model.graph.initializers[f"second.{part}"] is value
    model.graph.inputs.extend(packed_weights(model.graph))
    x = precision_of("int8").unpack(Net(recipe).words.parts, 20, 80)[IDS]
    exact = repacked.precision.unpack(parts, 32, 80)
    assert furthest(answers(model)[1], x @ exact.T) < (0.03 if recipe == "int8" else 1e-5)


def test_of_a_tied_matrix_the_use_that_changes_comes_apart():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = Products("int8", normal(20, 80, seed=3))

        def forward(self, ids):
            return (packed_product(packed_rows(ids, *self.words.parts), self.words.parts, "int8", 20),)

    graph = traced_graph(Tied(), IDS, axes=((),))
    for value in graph.unbound:
        value.const_value = ir.tensor(graph.weights[value.name].detach().numpy(), name=value.name)
    made = stand_in(graph.model, {"words": "int8"})
    head, embedding = sorted(made, key=lambda held: held.node.op_type == "Gather")
    assert head.weight is embedding.weight
    head.node.replace_input_with(1, unbound("words.weight", head.weight))
    (repacked,) = put_back(graph.model, made)
    for value, tensor in zip(repacked.parts.values(), Int8().pack(torch.ones(20, 80)), strict=True):
        value.const_value = ir.tensor(tensor.numpy(), name=value.name)
    held = set(graph.model.graph.initializers)
    assert {"words.codes", "words.scales", "words.codes.base", "words.scales.base"} <= held
    rows = Int8().unpack(Tied().words.parts, 20, 80)[IDS]
    graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
    assert furthest(answers(graph.model)[0], rows.sum(-1, keepdim=True).expand(-1, -1, 20)) < 0.03


def test_rows_at_places_that_are_fixed_are_gathered_by_a_stand_in_too():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = Products("int8", normal(20, 80, seed=3))
            self.register_buffer("places", torch.arange(3))

        def forward(self, ids):
            return (packed_rows(self.places, *self.words.parts) + ids.unsqueeze(-1),)

    graph = traced_graph(Positions(), IDS, axes=((),))
    for value in graph.unbound:
        value.const_value = ir.tensor(graph.weights[value.name].detach().numpy(), name=value.name)
    model = ir.from_proto(ir.to_proto(graph.model))
    leave_out(model, stand_in(model, {"words": "int8"}))
    rows = Int8().unpack(Positions().words.parts, 20, 80)[:3]
    assert furthest(answers(model)[0], rows + IDS.unsqueeze(-1)) < 1e-6


def test_a_matrix_that_goes_into_something_else_is_named():
    model, recipes = loaded("nf4/64/single", serving=True)
    product = next(node for node in model.graph if node.op_type == "MatMulBnb4")
    product.op_type = "MatMulFpQ4"
    with pytest.raises(
        ExportError, match=r"(first|second): its packed matrix goes into .* \(MatMulFpQ4\), which is no"
    ):
        stand_in(model, recipes)
