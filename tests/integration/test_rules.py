"""A model that violates a rule of the accelerator is refused with its name: real ONNX models, one change each."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from fieldtune.bundle.node_tables import read_node_table
from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.plan import plan_placement
from fieldtune.placement.rules import CHECKS, check_rules, refuse
from fieldtune_offline.node_table import node_table

KV260, VEK280, STRIX = (load_profile(name) for name in ("kv260", "vek280", "ryzen-ai-strix"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "fpga-rules.md"
DPUS = pytest.mark.parametrize("profile", [KV260, VEK280], ids=lambda profile: profile.name)
TYPES = {"int8": np.int8, "uint8": np.uint8}


@dataclasses.dataclass(kw_only=True)
class Network:
    """A quantized network of every operator that a rule speaks of, and what can be changed about it.

    Attributes:
        profile: whose batch, activation type, zero point and latest opset it has.
        positions: of the tensors whose position is not 4 or, of weights, 8.
        labels: outputs of the last product.
        image: height and width of the input, and channels: of the input.
        stem: attributes of the first convolution, ``kernel`` is its height and width.
    """

    profile: object
    positions: dict = dataclasses.field(default_factory=dict)
    labels: int = 10
    image: int = 64
    channels: int = 3
    kernel: int = 3
    stem: dict = dataclasses.field(default_factory=dict)

    def model(self):
        """Return the ONNX model."""
        accelerator = self.profile.accelerator
        self.rng, self.nodes, self.initializers = np.random.default_rng(0), [], []
        self.type, self.zero = TYPES[accelerator.activation_type], accelerator.zero_point
        for name, bound in (("zero", 0), ("six", 6)):
            self.constant(name, np.array(bound, np.float32))
        x = self.quantized("x", "image")
        x = self.quantized(
            self.add("Clip", "relu6", self.conv(x, "stem", 16, self.channels, self.kernel, **self.stem), "zero", "six")
        )
        short = x
        x = self.quantized(self.add("Relu", "relu", self.conv(x, "depthwise", 16, 1, 3, group=16)))
        x = self.quantized(self.conv(x, "project", 16, 16, 1))
        x = self.quantized(self.add("Add", "add", short, x))
        x = self.quantized(self.add("LeakyRelu", "leaky", self.conv(x, "widen", 16, 16, 1), alpha=26 / 256))
        x = self.quantized(self.add("Concat", "concat", x, short, axis=1))
        x = self.quantized(self.conv(x, "mix", 16, 32, 1))
        x = self.quantized(self.add("MaxPool", "pool", x, kernel_shape=[2, 2], strides=[1, 1]))
        x = self.quantized(self.conv(x, "behind", 16, 16, 1))
        self.constant("border", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        x = self.quantized(self.add("Pad", "pad", x, "border", "zero"))
        x = self.quantized(self.conv(x, "last", 16, 16, 3))
        x = self.quantized(self.add("GlobalAveragePool", "average", x))
        x = self.quantized(self.add("Flatten", "flatten", x))
        x = self.quantized(self.product(x, "head"))
        size = [accelerator.batch, self.channels, self.image, self.image]
        graph = helper.make_graph(
            self.nodes,
            "prefix",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, [accelerator.batch, self.labels])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", accelerator.opset_max)], ir_version=8)

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op, name, *inputs, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def quantized(self, value, name=None):
        """Quantize and dequantize a value; return what it is then."""
        name = name or value.removesuffix(".out")
        scale = np.array(2.0 ** -self.positions.get(name, 4), np.float32)
        parameters = self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", self.type(self.zero))
        stored = self.add("QuantizeLinear", f"{name}.quantize", value, *parameters)
        return self.add("DequantizeLinear", f"{name}.dequantize", stored, *parameters)

    def weights(self, name, shape, dtype=np.int8):
        array = self.rng.integers(-100, 100, shape).astype(dtype)
        scale = np.array(2.0 ** -self.positions.get(name, 8), np.float32)
        parameters = self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", dtype(0))
        return self.add("DequantizeLinear", f"{name}.dequantize", self.constant(name, array), *parameters)

    def conv(self, x, name, out, inner, kernel, group=1, **changes):
        weights = self.weights(f"{name}.weight", (out, inner, kernel, kernel))
        bias = self.weights(f"{name}.bias", (out,), np.int32)
        attributes = {"strides": [1, 1], "dilations": [1, 1], "kernel_shape": [kernel, kernel], "group": group}
        attributes["pads"] = [kernel // 2, kernel // 2, (kernel - 1) // 2, (kernel - 1) // 2]
        return self.add("Conv", name, x, weights, bias, **attributes | changes)

    def product(self, x, name):
        weights = self.weights(f"{name}.weight", (self.labels, 16))
        return self.add("Gemm", name, x, weights, self.weights(f"{name}.bias", (self.labels,), np.int32), transB=1)


@pytest.fixture
def table_of(tmp_path):
    """Return a function from a model to its node table, as a build writes it and a device reads it."""

    def write(model):
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        path = tmp_path / "prefix.nodes.json"
        path.write_text(node_table(ir.serde.deserialize_model(inferred)), encoding="utf-8")
        return read_node_table(path)

    return write


@pytest.fixture
def found(table_of):
    """Return a function from a model and a profile to the rules that it violates and the nodes that violate them."""
    return lambda model, profile: [
        (violation.rule, violation.node) for violation in check_rules(table_of(model), profile)
    ]


def node(model, name):
    return next(node for node in model.graph.node if node.name == name)


def replace(model, name, array):
    """Give an initializer another value."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def append(model, nodes, output, dtype=TensorProto.FLOAT, shape=(1,), constants=()):
    """Add nodes behind the graph's input, and an output."""
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants)
    model.graph.output.append(helper.make_tensor_value_info(output, dtype, shape))
    return model


# The clean model.


@pytest.mark.parametrize("profile", [KV260, VEK280, STRIX], ids=lambda profile: profile.name)
def test_the_clean_model_runs_and_violates_nothing(profile, table_of):
    model = Network(profile=profile).model()
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = profile.accelerator.batch
    x = np.random.default_rng(1).normal(size=(batch, 3, 64, 64)).astype(np.float32)
    (logits,) = session.run(None, {"x": x})
    assert logits.shape == (batch, 10)
    assert len(np.unique(logits)) > 3
    table = table_of(model)
    assert check_rules(table, profile) == ()
    plan = plan_placement(table, profile.accelerator)
    assert len(plan.partitions) == 1
    assert plan.cpu_operators == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert plan.boundary_bytes == batch * (3 * 64 * 64 + 10)
    assert plan.offload == 1.0


def test_every_rule_has_a_test_here():
    names = {name for name in globals() if name.startswith("test_")}
    missing = [rule for rule in CHECKS if not any(name.startswith(f"test_{rule.replace('-', '_')}") for name in names)]
    assert missing == []


# The graph as a whole.


@DPUS
def test_dynamic_shape(profile, found):
    model = Network(profile=profile).model()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    assert found(model, profile) == [("dynamic-shape", "x")]


def test_dynamic_shape_made_by_a_node(found):
    model = Network(profile=KV260).model()
    chosen = helper.make_node("NonZero", ["x"], ["chosen"], name="choose")
    assert found(append(model, [chosen], "chosen", TensorProto.INT64, (4, None)), KV260) == [
        ("dynamic-shape", "choose")
    ]


def test_batch(found):
    assert found(Network(profile=KV260).model(), VEK280) == [("batch", "x")]
    assert found(Network(profile=VEK280).model(), KV260) == [("batch", "x")]


@DPUS
def test_opset_range(profile, found):
    model = Network(profile=profile).model()
    model.opset_import[0].version = 19
    assert found(model, profile) == [("opset-range", "prefix")]
    # The latest opset of the NPU is older.
    model = Network(profile=STRIX).model()
    model.opset_import[0].version = 18
    assert found(model, STRIX) == [("opset-range", "prefix")]


@DPUS
def test_training_graph(profile, found, table_of):
    model = Network(profile=profile).model()
    assert [violation.rule for violation in check_rules(table_of(model), profile, training=True)] == ["training-graph"]
    model.graph.name = "gradient"
    assert found(model, profile) == [("training-graph", "gradient")]
    model.graph.name = "prefix"
    gradient = helper.make_node("Identity", ["theta"], ["grad_sum"], name="gradient")
    batch = profile.accelerator.batch
    model.graph.input.append(helper.make_tensor_value_info("theta", TensorProto.FLOAT, [batch]))
    append(model, [gradient], "grad_sum", shape=(batch,))
    assert found(model, profile) == [("training-graph", "prefix")]


def test_memory(found, table_of):
    # 16 channels of 16,384 by 16,384 pixels are as many bytes as the board has.
    model = Network(profile=KV260, image=16_384).model()
    (violation,) = check_rules(table_of(model), KV260)
    assert (violation.rule, violation.limit) == ("memory", "4,294,967,296 bytes")
    assert violation.node in {node.name for node in model.graph.node}
    assert found(Network(profile=KV260, image=4096).model(), KV260) == []
    # The VEK280's profile states no memory: a limit is set here.
    limited = dataclasses.replace(VEK280, accelerator=dataclasses.replace(VEK280.accelerator, memory_bytes=1_000_000))
    assert [rule for rule, _ in found(Network(profile=VEK280).model(), limited)] == ["memory"]


# What ends the compiler's process.


@DPUS
@pytest.mark.parametrize("attribute", ["strides", "pads", "dilations", "kernel_shape", "group"])
def test_implicit_conv_attributes(profile, attribute, table_of):
    model = Network(profile=profile, kernel=1).model()
    conv = node(model, "project")
    kept = [written for written in conv.attribute if written.name != attribute]
    del conv.attribute[:]
    conv.attribute.extend(kept)
    onnx.checker.check_model(model, full_check=True)  # for ONNX it is the same model
    (violation,) = check_rules(table_of(model), profile)
    assert (violation.rule, violation.node, violation.found) == (
        "implicit-conv-attributes",
        "project",
        f"no {attribute}",
    )


@DPUS
def test_data_dependent_if(profile, found):
    def branch(name, op):
        inner = helper.make_tensor_value_info(f"{name}.x", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["x"], [f"{name}.x"])], name, [], [inner])

    model = Network(profile=profile).model()
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], name="largest", keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"], name="positive"),
        helper.make_node(
            "If", ["positive"], ["y"], "guard", then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs")
        ),
    ]
    shape = (profile.accelerator.batch, 3, 64, 64)
    assert found(append(model, nodes, "y", shape=shape), profile) == [("data-dependent-if", "guard")]
    # A condition that is a constant is decided before anything runs.
    model.graph.node[-1].input[0] = "always"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    assert found(model, profile) == []


@DPUS
def test_lstm(profile, found):
    def recurrent(op, gates):
        sizes = {"w": (1, gates * 4, 64), "r": (1, gates * 4, 4)}
        nodes = [
            helper.make_node("Slice", ["x", "from", "to", "along"], ["line"], name="line"),
            helper.make_node("Reshape", ["line", "shape"], ["sequence"], name="sequence"),
            helper.make_node(op, ["sequence", "w", "r"], ["", "state"], name="recurrent", hidden_size=4),
        ]
        indices = {"from": [0, 0], "to": [1, 1], "along": [1, 2], "shape": [profile.accelerator.batch, 1, 64]}
        constants = [(name, np.array(values, np.int64)) for name, values in indices.items()]
        constants += [(name, np.ones(size, np.float32)) for name, size in sizes.items()]
        model = Network(profile=profile).model()
        return append(model, nodes, "state", shape=(1, 1, 4), constants=constants)

    assert found(recurrent("LSTM", 4), profile) == [("lstm", "recurrent")]
    assert found(recurrent("GRU", 3), profile) == []


@DPUS
def test_bfloat16(profile, found):
    model = Network(profile=profile).model()
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], name="narrow", to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["narrow"], ["wide"], name="wide", to=TensorProto.FLOAT),
    ]
    shape = (profile.accelerator.batch, 3, 64, 64)
    assert found(append(model, nodes, "wide", shape=shape), profile) == [("bfloat16", "narrow")]


# Quantization.


@DPUS
@pytest.mark.parametrize("tensor", ["stem.weight", "mix.bias", "head"])
def test_scale_power_of_two(profile, tensor, found):
    model = Network(profile=profile).model()
    replace(model, f"{tensor}.scale", np.array(0.03, np.float32))
    quantizer = "head.quantize" if tensor == "head" else f"{tensor}.dequantize"
    assert found(model, profile) == [("scale-power-of-two", quantizer)]


@pytest.mark.parametrize(("profile", "wrong"), [(KV260, np.int8(-1)), (VEK280, np.int8(3)), (STRIX, np.uint8(127))])
def test_zero_point(profile, wrong, found):
    model = Network(profile=profile).model()
    replace(model, "add.zero", wrong)
    assert found(model, profile) == [("zero-point", "add.quantize")]
    model = Network(profile=profile).model()
    replace(model, "mix.weight.zero", np.int8(1))
    assert found(model, profile) == [("zero-point", "mix.weight.dequantize")]


@pytest.mark.parametrize(("profile", "wrong"), [(KV260, np.uint8(0)), (VEK280, np.uint8(128)), (STRIX, np.int8(0))])
def test_quantized_type_of_an_activation(profile, wrong, found):
    model = Network(profile=profile).model()
    replace(model, "add.zero", wrong)
    assert found(model, profile) == [("quantized-type", "add.quantize")]


@DPUS
def test_quantized_type_of_a_channel(profile, found):
    model = Network(profile=profile).model()
    replace(model, "mix.weight.scale", np.full(16, 2.0**-8, np.float32))
    replace(model, "mix.weight.zero", np.zeros(16, np.int8))
    node(model, "mix.weight.dequantize").attribute.append(helper.make_attribute("axis", 0))
    onnx.checker.check_model(model, full_check=True)
    assert found(model, profile) == [("quantized-type", "mix.weight.dequantize")]


@DPUS
def test_unquantized(profile, found):
    model = Network(profile=profile).model()
    node(model, "mix").input[1] = "float"  # without the weight's quantization
    weight = np.ones((16, 32, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "float"))
    assert found(model, profile) == [("unquantized", "mix")]
    model = Network(profile=profile).model()
    node(model, "behind").input[0] = "mix.out"  # past the quantization of what one convolution makes for the other
    assert found(model, profile) == [("unquantized", "mix"), ("unquantized", "behind")]
    model = Network(profile=profile).model()
    del model.graph.node[-2:]  # what the graph puts out is not quantized
    model.graph.output[0].name = "head.out"
    assert found(model, profile) == [("unquantized", "head")]


@DPUS
def test_unquantized_operators_without_weights_run_on_the_cpu(profile, table_of):
    model = Network(profile=profile).model()
    doubled = helper.make_node("Add", ["x", "x"], ["doubled"], name="doubled")
    table = table_of(append(model, [doubled], "doubled", shape=(profile.accelerator.batch, 3, 64, 64)))
    assert check_rules(table, profile) == ()
    (reason,) = (entry.reason for entry in plan_placement(table, profile.accelerator).cpu if entry.op == "Add")
    assert reason == "what it reads is not quantized"


@DPUS
@pytest.mark.parametrize(("position", "refused"), [(0, False), (-1, True), (16, False), (17, True)])
def test_shift_cut(profile, position, refused, found):
    """The shift is position + 4 - 4; the Clip of the convolution is between it and its quantization."""
    for name in ("stem", "head"):
        model = Network(profile=profile, positions={f"{name}.weight": position}).model()
        assert found(model, profile) == ([("shift-cut", name)] if refused else [])


@DPUS
@pytest.mark.parametrize(("position", "refused"), [(11, False), (12, True), (-3, False), (-4, True)])
def test_add_shift_read(profile, position, refused, found):
    model = Network(profile=profile, positions={"project": position}).model()
    assert found(model, profile) == ([("add-shift-read", "add")] if refused else [])


@DPUS
@pytest.mark.parametrize("name", ["concat", "pool", "pad", "average"])
@pytest.mark.parametrize("position", [3, 5])
def test_equal_positions(profile, name, position, found):
    assert found(Network(profile=profile, positions={name: position}).model(), profile) == [("equal-positions", name)]


@DPUS
def test_equal_positions_of_a_slice(profile, found):
    indices = {"from": [0, 0], "to": [8, 8], "along": [2, 3]}
    for position, expected in ((4, []), (6, [("equal-positions", "slice")])):
        network = Network(profile=profile, positions={"slice": position})
        model = network.model()
        sliced = len(network.nodes)
        network.initializers = []
        network.quantized(network.add("Slice", "slice", "project.dequantize.out", *indices))
        shape = (profile.accelerator.batch, 16, 8, 8)
        constants = [(name, np.array(values, np.int64)) for name, values in indices.items()]
        model.graph.initializer.extend(network.initializers)
        append(model, network.nodes[sliced:], "slice.dequantize.out", shape=shape, constants=constants)
        assert found(model, profile) == expected


# Limits of one target.


@pytest.mark.parametrize(
    ("profile", "kernel", "refused"),
    [(KV260, 16, False), (KV260, 17, True), (VEK280, 7, False), (VEK280, 8, True), (VEK280, 17, True)],
)
def test_kernel(profile, kernel, refused, found):
    model = Network(profile=profile, kernel=kernel).model()
    assert found(model, profile) == ([("kernel", "stem")] if refused else [])


@pytest.mark.parametrize(
    ("profile", "strides", "refused"),
    [
        (KV260, [8, 8], False),
        (KV260, [8, 9], True),
        (KV260, [16, 1], True),
        (VEK280, [9, 16], False),
        (VEK280, [17, 1], True),
    ],
)
def test_stride(profile, strides, refused, found):
    model = Network(profile=profile, stem={"strides": strides}).model()
    assert found(model, profile) == ([("stride", "stem")] if refused else [])


@DPUS
@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"pads": [2, 2, 2, 2]}, False),
        ({"pads": [0, 0, 0, 3]}, True),
        ({"pads": [4, 2, 4, 2], "dilations": [2, 1]}, False),
        ({"pads": [5, 2, 4, 2], "dilations": [2, 1]}, True),
    ],
)
def test_padding(profile, changes, refused, found):
    model = Network(profile=profile, stem=changes).model()
    assert found(model, profile) == ([("padding", "stem")] if refused else [])


@pytest.mark.parametrize(("profile", "most"), [(KV260, 4096), (VEK280, 8192)], ids=["kv260", "vek280"])
def test_input_channels(profile, most, found):
    for channels, expected in ((most, []), (most + 1, [("input-channels", "stem")])):
        assert found(Network(profile=profile, channels=channels, kernel=1).model(), profile) == expected


@pytest.mark.parametrize(("profile", "most"), [(KV260, 4096), (VEK280, 8192)], ids=["kv260", "vek280"])
def test_output_channels(profile, most, found):
    for labels, expected in ((most, []), (most + 1, [("output-channels", "head")])):
        assert found(Network(profile=profile, labels=labels).model(), profile) == expected


@pytest.mark.parametrize(
    ("profile", "kernel", "most"),
    [
        (KV260, 16, 128),  # 16 · 16 · ⌈128 / 16⌉ · ⌈16 / 16⌉ = 2048 rows
        (VEK280, 7, 1328),  # 7 · 7 · ⌈1328 / 16⌉ · ⌈32 / 4⌉ = 32,536 of 32,768 rows
    ],
    ids=["kv260", "vek280"],
)
def test_weight_bank(profile, kernel, most, found):
    for channels, expected in ((most, []), (most + 1, [("weight-bank", "stem")])):
        assert found(Network(profile=profile, channels=channels, kernel=kernel).model(), profile) == expected


@DPUS
def test_activation_with_another_slope(profile, found):
    model = Network(profile=profile).model()
    node(model, "leaky").attribute[0].f = 0.2
    assert found(model, profile) == [("activation", "leaky")]


@DPUS
def test_activation_with_another_bound(profile, found):
    model = Network(profile=profile).model()
    replace(model, "six", np.array(4, np.float32))
    assert found(model, profile) == [("activation", "relu6")]


@pytest.mark.parametrize("op", ["HardSwish", "HardSigmoid"])
def test_activation_that_only_some_targets_have(op, found):
    for profile, expected in ((KV260, [("activation", "relu")]), (VEK280, [])):
        model = Network(profile=profile).model()
        relu = node(model, "relu")
        relu.op_type = op
        if op == "HardSigmoid":
            relu.attribute.append(helper.make_attribute("alpha", 1 / 6))
        assert found(model, profile) == expected


# Refusing.


def test_all_of_them_in_one_error(table_of):
    model = Network(profile=KV260, kernel=17, stem={"strides": [9, 9]}).model()
    replace(model, "head.scale", np.array(0.03, np.float32))
    with pytest.raises(PlacementRefused) as caught:
        refuse(check_rules(table_of(model), KV260), "prefix_kv260", KV260.accelerator.target)
    assert str(caught.value) == (
        "prefix_kv260: DPUCZDX8G_ISA1_B4096 would refuse it by scale-power-of-two, kernel, stride:"
        "\n  - scale-power-of-two: head.quantize: found scale 0.0299999993 of 'head.quantize.out', allowed a power of "
        "two; quantize for this target"
        "\n  - kernel: stem: found 17x17, allowed kernels of 1 to 16, at most 256 elements; keep it out of the prefix "
        "(--split) or take a smaller kernel"
        "\n  - stride: stem: found 9x9, allowed strides of 1 to 8; keep it out of the prefix (--split) or take a "
        "smaller stride"
    )
    assert f"```\n{caught.value}\n```" in PAGE.read_text(encoding="utf-8")


def test_the_page_lists_every_rule_as_the_code_has_it():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| rule | what must hold | source |") + 2
    rows = lines[start : lines.index("", start)]
    assert rows == [f"| `{rule}` | {check.what} | {check.source} |" for rule, check in CHECKS.items()]
