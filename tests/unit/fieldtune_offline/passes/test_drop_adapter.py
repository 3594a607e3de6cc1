import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from fieldtune.bundle.layout import BaseWeight, Layout, ParameterSpec
from fieldtune.errors import ExportError
from fieldtune_offline.passes.drop_adapter import drop_adapter
from fieldtune_offline.passes.fold_factors import fold_dora, fold_ia3
from fieldtune_offline.passes.fold_lora import fold_lora
from fieldtune_offline.passes.fold_miss import fold_miss

RANK, ROWS = 3, 4
RNG = np.random.default_rng(0)
AXES = {
    ("a", 2): ("rank", "in"), ("b", 2): ("out", "rank"), ("a", 4): ("rank", "in", "height", "width"),
    ("b", 4): ("out", "rank", "height", "width"), ("bias", 1): ("out",), ("saved", 2): ("out", "in"),
    ("outputs", 1): ("out_features",), ("outputs", 2): ("out_features", "one"), ("inputs", 2): ("one", "in_features"),
    ("inputs", 4): ("one", "in_channels", "height", "width"),
    ("outputs", 4): ("one", "out_channels", "height", "width"), ("block", 2): ("rank", "out_features"),
}  # fmt: skip


class Network:
    """A graph in the making, with the adapter inputs that it has so far."""

    def __init__(self):
        self.nodes, self.initializers, self.adapter, self.layout, self.fed = [], {}, [], [], {}

    def source(self, name, shape, dtype=ir.DataType.FLOAT):
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))

    def held(self, name, array):
        if name not in self.initializers:
            value = self.source(name, array.shape, ir.tensor(array).dtype)
            value.const_value = ir.tensor(array, name=name)
            self.initializers[name] = value
        return self.initializers[name]

    def fill(self, name, shape):
        return self.held(name, RNG.normal(size=shape).astype(np.float32))

    def feed(self, key, kind, module, shape, peft_shape, *, rank=RANK, replaces=None, weight=None):
        """Add an adapter input with a default of zeros, and what it is fed."""
        value = self.fill(key, [1 if size == "rank" else size for size in shape])
        value.shape = ir.Shape(shape)
        self.adapter.append(value)
        offset = sum(parameter.size for parameter in self.layout)
        peft_shape = tuple(rank if size == "rank" else size for size in peft_shape)
        self.layout.append(
            ParameterSpec(
                key=key,
                module=module,
                axes=AXES[kind, len(shape)],
                shape=peft_shape,
                offset=offset,
                decay=True,
                replaces=replaces,
                weight=weight,
            )
        )
        self.fed[key] = RNG.normal(size=[rank if size == "rank" else size for size in shape]).astype(np.float32)
        return value

    def op(self, kind, inputs, shape, dtype=ir.DataType.FLOAT, **attributes):
        node = ir.node(kind, inputs, attributes, name=f"{kind}_{len(self.nodes)}")
        self.nodes.append(node)
        output = node.outputs[0]
        output.name, output.type, output.shape = f"{node.name}_0", ir.TensorType(dtype), ir.Shape(shape)
        return output

    def linear(self, x, module, sizes, weight=None, *, bias=False, trans=1, lora_bias=False):
        """Add a linear layer with LoRA."""
        into, out = sizes
        weight = weight or self.fill(f"{module}.weight", (out, into) if trans else (into, out))
        inputs = [x, weight, *([self.fill(f"{module}.bias", (out,))] if bias else [])]
        plain = self.op("Gemm", inputs, ("rows", out), alpha=1.0, beta=1.0, transA=0, transB=trans)
        key = f"base_model.model.{module}"
        a = self.feed(f"{key}.lora_A.weight", "a", module, (into, "rank"), ("rank", into))
        b = self.feed(f"{key}.lora_B.weight", "b", module, ("rank", out), (out, "rank"))
        more = [self.feed(f"{key}.lora_B.bias", "bias", module, (out,), (out,))] if lora_bias else []
        flags = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
        low = self.op("Gemm", [x, a], ("rows", "rank"), **flags)
        return self.op("Add", [plain, self.op("Gemm", [low, b, *more], ("rows", out), **flags)], ("rows", out))

    def model(self, inputs, outputs):
        for name, value in outputs.items():
            value.name = name
        graph = ir.Graph(
            [*inputs, *self.adapter], list(outputs.values()), nodes=self.nodes,
            initializers=list(self.initializers.values()), opset_imports={"": 18}, name="net",
        )  # fmt: skip
        return ir.Model(graph, ir_version=8)


def _run(model, feeds):
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def _check(network, inputs, outputs, feeds, fold=fold_lora):
    """Drop the adapter, bind the merged weights, and compare; return what is left."""
    model = network.model(inputs, outputs)
    names = [value.name for value in model.graph.outputs]
    expected = _run(model, {**feeds, **network.fed})
    merged = drop_adapter(model, Layout(tuple(network.layout)), fold)
    for tensor in merged:
        model.graph.initializers[tensor.name].const_value = ir.tensor(tensor.values(network.fed), name=tensor.name)
    assert [value.name for value in model.graph.inputs] == [value.name for value in inputs]
    assert [value.name for value in model.graph.outputs] == names
    for found, right in zip(_run(model, feeds), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    return model.graph, merged


def _operators(graph):
    return [node.op_type for node in graph]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lora_bias", [False, True])
@pytest.mark.parametrize("trans", [0, 1])
def test_a_linear_layer_is_one_product(bias, lora_bias, trans):
    network = Network()
    x = network.source("x", ("rows", 5))
    y = network.linear(x, "net.layer", (5, 6), bias=bias, lora_bias=lora_bias, trans=trans)
    graph, merged = _check(
        network, [x], {"y": network.op("Relu", [y], ("rows", 6))}, {"x": np.ones((4, 5), np.float32)}
    )
    assert _operators(graph) == ["Gemm", "Relu"]
    expected = {"net.layer.weight"} | ({"net.layer.bias"} if bias or lora_bias else set())
    assert set(graph.initializers) == expected
    assert {tensor.name for tensor in merged} == {"net.layer.weight"} | ({"net.layer.bias"} if lora_bias else set())


def test_an_output_keeps_its_name_where_a_layer_makes_it():
    network = Network()
    x = network.source("x", ("rows", 5))
    hidden = network.linear(x, "first", (5, 6))
    last = network.linear(hidden, "second", (6, 2))
    graph, _ = _check(network, [x], {"logits": last}, {"x": np.ones((4, 5), np.float32)})
    assert _operators(graph) == ["Gemm", "Gemm"]


def test_a_layer_that_runs_twice_has_one_weight():
    network = Network()
    x = network.source("x", ("rows", 5))
    once = network.linear(x, "shared", (5, 5))
    first = network.nodes[:4]
    values = {id(x): once}
    for node in first:
        inputs = [values.get(id(value), value) for value in node.inputs]
        flags = {name: attribute.value for name, attribute in node.attributes.items()}
        values[id(node.outputs[0])] = network.op(node.op_type, inputs, ("rows", 5), **flags)
    twice = values[id(once)]
    graph, merged = _check(network, [x], {"y": twice}, {"x": np.ones((4, 5), np.float32)})
    assert _operators(graph) == ["Gemm", "Gemm"]
    assert [tensor.name for tensor in merged] == ["shared.weight"]


@pytest.mark.parametrize("adapted", [("embed",), ("head",), ("embed", "head")])
def test_tied_weights_come_apart_where_one_of_them_is_adapted(adapted):
    network = Network()
    ids = network.source("ids", ("rows",), ir.DataType.INT64)
    table = network.fill("embed.weight", (7, 5))
    hidden = network.op("Gather", [table, ids], ("rows", 5), axis=0)
    if "embed" in adapted:
        key = "base_model.model.embed"
        a = network.feed(f"{key}.lora_embedding_A", "a", "embed", (7, "rank"), ("rank", 7))
        b = network.feed(f"{key}.lora_embedding_B", "b", "embed", ("rank", 5), (5, "rank"))
        low = network.op("Gather", [a, ids], ("rows", "rank"), axis=0)
        # The rows are counted where the branch begins, and read again at the end.
        count = network.op("Shape", [low], (1,), ir.DataType.INT64, start=0, end=1)
        flags = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
        hidden = network.op("Add", [hidden, network.op("Gemm", [low, b], ("rows", 5), **flags)], ("rows", 5))
    if "head" in adapted:
        logits = network.linear(hidden, "head", (5, 7), table)
    else:
        logits = network.op("Gemm", [hidden, table], ("rows", 7), alpha=1.0, beta=1.0, transA=0, transB=1)
    outputs = {"logits": logits}
    if "embed" in adapted:
        outputs["count"] = network.op("Identity", [count], (1,), ir.DataType.INT64)
    graph, merged = _check(network, [ids], outputs, {"ids": np.array([0, 6, 2])})
    assert [tensor.name for tensor in merged] == [f"{name}.weight" for name in adapted]
    # The use that is not adapted keeps the old tensor: under its name, or another where that is taken.
    left = {"embed": "embed.weight.base", "head": "embed.weight"}.get(adapted[0]) if len(adapted) == 1 else None
    assert set(graph.initializers) == {f"{name}.weight" for name in adapted} | ({left} if left else set())


def test_a_convolution_and_a_saved_head():
    network = Network()
    x = network.source("x", ("batch", 3, 8, 8))
    flags = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}
    plain = network.op("Conv", [x, network.fill("conv.weight", (6, 3, 3, 3))], ("batch", 6, 4, 4), **flags)
    key = "base_model.model.conv"
    a = network.feed(f"{key}.lora_A.weight", "a", "conv", ("rank", 3, 3, 3), ("rank", 3, 3, 3))
    b = network.feed(f"{key}.lora_B.weight", "b", "conv", (6, "rank", 1, 1), (6, "rank", 1, 1))
    low = network.op("Conv", [x, a], ("batch", "rank", 4, 4), **flags)
    one = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    high = network.op("Conv", [low, b], ("batch", 6, 4, 4), **one)
    image = network.op("Add", [plain, high], ("batch", 6, 4, 4))
    mean = network.op("ReduceMean", [image, network.held("axes", np.array([2, 3]))], ("batch", 6), keepdims=0)
    head = network.feed("base_model.model.head.weight", "saved", "head", (2, 6), (2, 6), replaces="head.weight")
    logits = network.op("Gemm", [mean, head], ("batch", 2), alpha=1.0, beta=1.0, transA=0, transB=1)
    feeds = {"x": RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    graph, merged = _check(network, [x], {"logits": logits}, feeds)
    assert _operators(graph) == ["Conv", "ReduceMean", "Gemm"]
    assert {tensor.name: tensor.key for tensor in merged} == {
        "conv.weight": None,
        "head.weight": "base_model.model.head.weight",
    }


def test_a_bias_that_the_adapter_leaves_alone_keeps_the_bundles_values():
    network = Network()
    x = network.source("x", ("rows", 5))
    key = "base_model.model.norm.base_layer.bias"
    bias = network.feed(key, "bias", "norm", (5,), (5,), replaces="norm.bias")
    before = bias.const_value.numpy().copy()
    model = network.model([x], {"y": network.op("Add", [x, bias], ("rows", 5))})
    (tensor,) = drop_adapter(model, Layout(tuple(network.layout)), fold_lora)
    assert tensor.name == "norm.bias"
    np.testing.assert_array_equal(tensor.values({}), before)
    np.testing.assert_array_equal(tensor.values(network.fed), network.fed[key])


def test_a_branch_of_another_form_is_refused():
    network = Network()
    x = network.source("x", ("rows", 5))
    y = network.linear(x, "net.layer", (5, 6))
    low = next(node for node in network.nodes if node.name == "Gemm_1").outputs[0]
    tangent = network.op("Tanh", [low], ("rows", "rank"))
    model = network.model([x], {"y": y, "low": tangent})
    with pytest.raises(ExportError, match=r"net.layer: its adapter goes through Tanh_\d \(Tanh\)"):
        drop_adapter(model, Layout(tuple(network.layout)), fold_lora)


def _scaled(network, total, module, shape):
    """Multiply a layer's outputs as DoRA does."""
    weight = BaseWeight(name=f"{module}.weight", axes=("out_features", "in_features"))
    key = f"base_model.model.{module}.lora_magnitude_vector"
    return network.op("Mul", [total, network.feed(key, "outputs", module, shape, shape, weight=weight)], total.shape)


@pytest.mark.parametrize(
    ("bias", "left"),
    [
        ("behind", ["Gemm", "Relu"]),
        ("read by others", ["Gemm", "Identity", "Add", "Relu"]),
        (None, ["Gemm", "Relu"]),
    ],
)
@pytest.mark.parametrize("trans", [0, 1])
def test_dora_leaves_one_product_with_its_bias(bias, left, trans):
    network = Network()
    x = network.source("x", ("rows", 5))
    y = _scaled(network, network.linear(x, "net.layer", (5, 6), trans=trans), "net.layer", (6,))
    outputs = {}
    if bias == "read by others":
        outputs["bare"] = network.op("Identity", [y], ("rows", 6))
    if bias is not None:
        y = network.op("Add", [y, network.fill("net.layer.bias", (6,))], ("rows", 6))
    outputs = {"y": network.op("Relu", [y], ("rows", 6)), **outputs}
    graph, merged = _check(network, [x], outputs, {"x": np.ones((4, 5), np.float32)}, fold_dora)
    assert _operators(graph) == left
    assert [tensor.name for tensor in merged] == ["net.layer.weight"]


def test_the_bias_of_a_convolution_with_dora_is_its_own_again():
    network = Network()
    x = network.source("x", ("batch", 3, 4, 4))
    flags = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    plain = network.op("Conv", [x, network.fill("conv.weight", (4, 3, 1, 1))], ("batch", 4, 4, 4), **flags)
    key = "base_model.model.conv"
    a = network.feed(f"{key}.lora_A.weight", "a", "conv", ("rank", 3, 1, 1), ("rank", 3, 1, 1))
    b = network.feed(f"{key}.lora_B.weight", "b", "conv", (4, "rank", 1, 1), (4, "rank", 1, 1))
    low = network.op("Conv", [x, a], ("batch", "rank", 4, 4), **flags)
    total = network.op("Add", [plain, network.op("Conv", [low, b], plain.shape, **flags)], plain.shape)
    y = _scaled(network, total, "conv", (1, 4, 1, 1))
    sizes = [network.fill("conv.bias", (4,)), network.held("sizes", np.array([1, -1, 1, 1]))]
    # As many columns as channels: only what is laid along the channels is a bias.
    columns = network.op("Add", [y, network.op("Reshape", sizes, (1, 4, 1, 1))], plain.shape)
    y = network.op("Add", [columns, network.fill("columns", (4,))], plain.shape)
    feeds = {"x": RNG.normal(size=(2, 3, 4, 4)).astype(np.float32)}
    graph, _ = _check(network, [x], {"y": network.op("Relu", [y], plain.shape)}, feeds, fold_dora)
    assert _operators(graph) == ["Conv", "Add", "Relu"]
    assert len(graph[0].inputs) == 3


@pytest.mark.parametrize("trans", [0, 1])
def test_factors_of_outputs_go_into_rows_and_bias_and_those_of_inputs_into_columns(trans):
    network = Network()
    x = network.source("x", ("rows", 5))
    flags = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": trans}
    first = [x, network.fill("first.weight", (6, 5) if trans else (5, 6)), network.fill("first.bias", (6,))]
    flat = network.held("flat", np.array([-1]))
    of_outputs = network.feed("base_model.model.first.ia3_l", "outputs", "first", (6, 1), (6, 1))
    hidden = network.op("Gemm", first, ("rows", 6), **flags)
    hidden = network.op("Mul", [hidden, network.op("Reshape", [of_outputs, flat], (6,))], ("rows", 6))
    of_inputs = network.feed("base_model.model.second.ia3_l", "inputs", "second", (1, 6), (1, 6))
    scaled = network.op("Mul", [hidden, network.op("Reshape", [of_inputs, flat], (6,))], ("rows", 6))
    second = [scaled, network.fill("second.weight", (2, 6) if trans else (6, 2)), network.fill("second.bias", (2,))]
    y = network.op("Gemm", second, ("rows", 2), **flags)
    graph, merged = _check(network, [x], {"y": y}, {"x": np.ones((4, 5), np.float32)}, fold_ia3)
    assert _operators(graph) == ["Gemm", "Gemm"]
    assert [tensor.name for tensor in merged] == ["first.weight", "first.bias", "second.weight"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_factors_of_a_convolutions_inputs_are_those_of_its_groups(groups):
    network = Network()
    x = network.source("x", ("batch", 4, 6, 6))
    key = "base_model.model.conv.ia3_l"
    scaled = network.op("Mul", [x, network.feed(key, "inputs", "conv", (1, 4, 1, 1), (1, 4, 1, 1))], x.shape)
    flags = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": groups}
    weight = network.fill("conv.weight", (8, 4 // groups, 3, 3))
    y = network.op("Conv", [scaled, weight, network.fill("conv.bias", (8,))], ("batch", 8, 4, 4), **flags)
    feeds = {"x": RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)}
    graph, merged = _check(network, [x], {"y": y}, feeds, fold_ia3)
    assert _operators(graph) == ["Conv"]
    assert [tensor.name for tensor in merged] == ["conv.weight"]


def test_factors_of_something_else_are_refused():
    network = Network()
    x = network.source("x", ("rows", 5))
    factors = network.feed("base_model.model.layer.ia3_l", "outputs", "layer", (5, 1), (5, 1))
    row = network.op("Reshape", [factors, network.held("flat", np.array([-1]))], (5,))
    model = network.model([x], {"y": network.op("Add", [x, row], ("rows", 5))})
    with pytest.raises(ExportError, match=r"layer: its adapter goes through Add_\d \(Add\)"):
        drop_adapter(model, Layout(tuple(network.layout)), fold_ia3)
    network = Network()
    x = network.source("x", ("rows", 5))
    factors = network.feed("base_model.model.layer.ia3_l", "outputs", "layer", (5, 1), (5, 1))
    row = network.op("Reshape", [factors, network.held("flat", np.array([-1]))], (5,))
    model = network.model([x], {"y": network.op("Mul", [x, row], ("rows", 5))})
    with pytest.raises(ExportError, match="layer: the weight that its adapter changes cannot be found in front of x"):
        drop_adapter(model, Layout(tuple(network.layout)), fold_ia3)


def test_the_matrix_of_sums_of_inputs_is_added_to_the_weight():
    network = Network()
    x = network.source("x", ("rows", 5))
    flags = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    weight = [x, network.fill("layer.weight", (6, 5)), network.fill("layer.bias", (6,))]
    plain = network.op("Gemm", weight, ("rows", 6), **{**flags, "transB": 1})
    pattern = network.feed("base_model.model.layer.miss_pattern", "a", "layer", (5, "rank"), (5, "rank"))
    network.layout.pop()  # it is fed, but no part of theta
    block = network.feed("base_model.model.layer.miss_block", "block", "layer", ("rank", 6), ("rank", 6))
    update = network.op(
        "Gemm", [network.op("Gemm", [x, pattern], ("rows", "rank"), **flags), block], plain.shape, **flags
    )
    y = network.op("Add", [plain, update], plain.shape)
    graph, merged = _check(network, [x], {"y": y}, {"x": np.ones((4, 5), np.float32)}, fold_miss)
    assert _operators(graph) == ["Gemm"]
    assert [tensor.name for tensor in merged] == ["layer.weight"]
