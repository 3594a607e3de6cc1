"""The graphs of a bundle from one small adapted network, run by ONNX Runtime beside torch."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

import packed_graphs
from fieldtune_offline.graph import packed_weights
from fieldtune_offline.graphs import adapted_graph, gradient_graph
from fieldtune_offline.precisions.operators import unpacked_products
from fieldtune_offline.precisions.packing import pack_base
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.tasks.interface import Part, Traceable
from fieldtune_offline.tracing import trace_adapted, trace_gradient
from packed_graphs import Loss

PREFIX = "base_model.model."
STATIC = frozenset()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)))


class Answer(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        # The input itself is an output, too.
        return self.model(x), x


@pytest.fixture(scope="module")
def adapted():
    """LoRA of rank 2 on the first layer, its B not zero."""
    return packed_graphs.adapted_net(Net)


@pytest.fixture(scope="module")
def theta(adapted):
    held = dict(adapted.model.named_parameters())
    return adapted.layout.pack({key: held[name].detach().numpy() for key, name in adapted.names.items()})


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(1)
    return {"x": torch.randn(4, 3, generator=draw), "counts": torch.tensor([1.0, 1.0, 0.0, 1.0])}


@pytest.fixture(scope="module")
def training(adapted, batch):
    inputs = (("x", ("batch", None)), ("counts", ("batch",)))
    source = Traceable(Loss(adapted.model), "model", batch, inputs, ("loss_sum", "weight"), {"counts": 9})
    return gradient_graph(trace_gradient(source, adapted, STATIC), adapted)


@pytest.fixture(scope="module")
def serving(adapted, batch):
    source = Traceable(Answer(adapted.model), "model", {"x": batch["x"]}, (("x", ("batch", None)),), ("y", "given"))
    return adapted_graph("infer", trace_adapted(source, adapted, STATIC))


def run(graph, feeds):
    """Bind the weights of a graph and run it."""
    for value in graph.unbound:
        value.const_value = ir.tensor(graph.weights[value.name].detach().numpy(), name=value.name)
    proto = ir.to_proto(graph.model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in graph.outputs]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_loss_and_gradient_are_torchs(training, adapted, theta, batch):
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    found = run(training, {**feeds, "theta": theta})
    assert list(found) == ["loss_sum", "weight", "grad_sum"]
    adapted.model.zero_grad()
    loss, weight = Loss(adapted.model)(**batch)
    loss.backward()
    held = dict(adapted.model.named_parameters())
    expected = adapted.layout.pack({key: held[name].grad.numpy() for key, name in adapted.names.items()})
    assert found["loss_sum"] == pytest.approx(loss.item(), rel=1e-6)
    assert found["weight"] == weight.item() == 3
    np.testing.assert_allclose(found["grad_sum"], expected, rtol=1e-5, atol=1e-6)
    assert expected.any()


def test_the_base_goes_by_the_names_of_the_checkpoint_and_theta_takes_the_adapters_place(training):
    assert set(training.weights) == {"first.weight", "first.bias", "head.weight", "head.bias"}
    assert [(spec.name, spec.shape, spec.pad) for spec in training.inputs] == [
        ("x", ("batch", 3), 0),
        ("counts", ("batch",), 9),
        ("theta", (16,), 0),
    ]
    assert training.adapter_inputs == ()


def test_a_forward_graph_takes_adapters_of_any_rank_and_none(serving, adapted, batch):
    assert [(spec.name, spec.shape) for spec in serving.adapter_inputs] == [
        (f"{PREFIX}first.lora_A.weight", (3, "rank")),
        (f"{PREFIX}first.lora_B.weight", ("rank", 5)),
    ]
    feeds = {"x": batch["x"].numpy()}
    with torch.no_grad(), adapted.model.disable_adapter():
        base = adapted.model(x=batch["x"]).numpy()
    np.testing.assert_allclose(run(serving, feeds)["y"], base, rtol=1e-5, atol=1e-6)
    # PEFT's layer, transposed, with alpha / rank in B, and a third rank of zeros.
    layer = adapted.model.get_submodule(f"{PREFIX}first")
    a, b = (getattr(layer, part)["default"].weight.detach().numpy().T for part in ("lora_A", "lora_B"))
    a, b = np.pad(a, ((0, 0), (0, 1))), np.pad(4 / 2 * b, ((0, 1), (0, 0)))
    fed = {f"{PREFIX}first.lora_A.weight": a, f"{PREFIX}first.lora_B.weight": b}
    with torch.no_grad():
        expected = adapted.model(batch["x"]).numpy()
    np.testing.assert_allclose(run(serving, {**feeds, **fed})["y"], expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(base, expected)


def test_an_input_that_is_passed_on_has_an_output_of_its_own(serving, batch):
    found = run(serving, {"x": batch["x"].numpy()})
    np.testing.assert_array_equal(found["given"], batch["x"].numpy())
    assert [spec.name for spec in serving.outputs] == ["y", "given"]


def test_a_part_of_what_was_traced_asks_for_nothing_that_it_does_not_need(adapted, batch):
    class Both(Loss):
        def forward(self, x, counts):
            return *super().forward(x, counts), self.model(x)

    inputs = (("x", ("batch", None)), ("counts", ("batch",)))
    traced = trace_adapted(
        Traceable(Both(adapted.model), "model", batch, inputs, ("loss", "weight", "y")), adapted, STATIC
    )
    whole, part = adapted_graph("eval", traced), adapted_graph("infer", traced, Part(["x"], ["y"]))
    assert [spec.name for spec in part.inputs] == ["x"]
    assert part.adapter_inputs == whole.adapter_inputs
    assert len(part.model.graph) < len(whole.model.graph)
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    found, everything = run(part, {"x": feeds["x"]}), run(whole, feeds)
    assert list(found) == ["y"]
    np.testing.assert_array_equal(found["y"], everything["y"])


# A packed base

RECIPES = pytest.mark.parametrize("recipe", ["int8", "int4/64/asymmetric", "nf4/64/double"])


def packed_net(recipe):
    adapted = packed_graphs.adapted_net()
    pack_base(adapted.model, precision_of(recipe))
    return adapted


@RECIPES
def test_with_a_packed_base_the_gradient_is_torchs(recipe):
    adapted = packed_net(recipe)
    gradient, _ = packed_graphs.net_graphs(adapted, unpacked=True)
    session, held = packed_graphs.opened(gradient), dict(adapted.model.named_parameters())
    trained = {key: held[name] for key, name in adapted.names.items()}
    theta = adapted.layout.pack({key: tensor.detach().numpy() for key, tensor in trained.items()})
    for rows in (1, 5):
        batch = {"x": packed_graphs.normal(rows, 48, seed=5), "counts": torch.arange(rows) + 1.0}
        adapted.model.zero_grad()
        with unpacked_products():
            loss, weight = Loss(adapted.model)(**batch)
            loss.backward()
        feeds = {name: tensor.numpy() for name, tensor in batch.items()}
        loss_sum, weight_sum, grad_sum = session.run(["loss_sum", "weight", "grad_sum"], {**feeds, "theta": theta})
        assert loss_sum == pytest.approx(loss.item(), rel=1e-5)
        assert weight_sum == weight.item()
        expected = adapted.layout.pack({key: tensor.grad.numpy() for key, tensor in trained.items()})
        np.testing.assert_allclose(grad_sum, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        assert expected.any()


@RECIPES
def test_going_backward_parts_have_second_names_over_the_same_bytes_and_all_are_inputs_with_defaults(recipe):
    gradient, infer = packed_graphs.net_graphs(packed_net(recipe))
    parts = precision_of(recipe).part_names
    forward = {f"{layer}.{part}" for layer in ("first", "middle", "last") for part in parts}
    # Nothing is trained below the first layer, so that no gradient goes through it.
    backward = {f"{layer}.{part}@backward" for layer in ("middle", "last") for part in parts}
    assert {value.name for value in packed_weights(gradient.model.graph)} == forward | backward
    assert {value.name for value in packed_weights(infer.model.graph)} == forward
    assert set(gradient.weights) == {*forward, *(f"{layer}.bias" for layer in ("first", "middle", "last"))}
    session = packed_graphs.opened(gradient)
    assert {value.name for value in session.get_inputs()} == {"x", "counts", "theta"}
    assert {value.name for value in session.get_overridable_initializers()} == forward | backward
    bound = {value.name: value.const_value.numpy() for value in packed_weights(gradient.model.graph)}
    for name in backward:
        np.testing.assert_array_equal(bound[name], bound[name.removesuffix("@backward")])


def test_no_node_of_the_forward_pass_is_made_from_what_the_backward_pass_unpacks():
    """Else the unpacked matrix would be kept from the one to the other."""
    gradient, _ = packed_graphs.net_graphs(packed_net("int4/64/asymmetric"))
    unpacked = [node for node in gradient.model.graph if node.op_type == "DequantizeLinear"]
    assert len(unpacked) == 5
    for node in unpacked:
        (reshaped,) = node.outputs[0].consumers()
        assert len(reshaped.outputs[0].consumers()) == 1


def test_graphs_with_packed_parts_run_in_order_and_others_need_not():
    packed = packed_graphs.net_graphs(packed_net("nf4/64/single"))
    plain = packed_graphs.net_graphs(packed_graphs.adapted_net())
    assert [graph.spec("graphs").in_order for graph in (*packed, *plain)] == [True, True, False, False]
    assert {node.domain for graph in plain for node in graph.model.graph} == {""}
    assert packed[0].model.graph.opset_imports == {"": 18, "com.microsoft": 1}
