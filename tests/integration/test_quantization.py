"""A small convolutional network, trained, then quantized for every accelerator that there is a profile of."""

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import onnx_ir as ir
import torch
from torch import nn

from fieldtune.hardware import load_profile
from fieldtune.placement.flow.dataflow import DEQUANTIZE, QUANTIZE
from fieldtune.placement.plan import plan_placement
from fieldtune.placement.rules import check_rules
from fieldtune_offline.accelerators.int8 import quantize
from fieldtune_offline.accelerators.int8.boundary_quality import signal_to_noise_db
from fieldtune_offline.accelerators.int8.integer_reference import compare_operators
from fieldtune_offline.accelerators.int8.running import open_model
from fieldtune_offline.node_table import table_of

PROFILES = ("kv260", "zcu104", "vck190", "vek280", "ryzen-ai-phoenix", "ryzen-ai-strix")
CLASSES, SIZE = 4, 16
TEXT = """<ir_version: 8, opset_import: ["": 18]> network (float[batch,3,16,16] x) => (float[batch,4] logits) {
    c1 = Conv<pads=[1,1,1,1]>(x, stem_weight, stem_bias)
    r1 = Clip(c1, low, high)
    p1 = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r1)
    c2 = Conv<pads=[1,1,1,1],group=16>(p1, depthwise_weight, depthwise_bias)
    r2 = Clip(c2, low, high)
    c3 = Conv(r2, project_weight, project_bias)
    s = Add(c3, p1)
    r3 = Relu(s)
    j = Concat<axis=1>(r3, p1)
    c4 = Conv<strides=[2,2]>(j, last_weight, last_bias)
    r4 = LeakyRelu<alpha=0.1015625>(c4)
    m = ReduceMean<keepdims=0>(r4, axes)
    logits = Gemm<transB=1>(m, head_weight, head_bias)
}"""


class Network(nn.Module):
    """What TEXT says, in torch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(32, 24, 1, stride=2)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        p = nn.functional.max_pool2d(nn.functional.relu6(self.stem(x)), 2)
        r = torch.relu(self.project(nn.functional.relu6(self.depthwise(p))) + p)
        last = nn.functional.leaky_relu(self.last(torch.cat([r, p], 1)), 26 / 256)
        return self.head(last.mean((2, 3)))


def images(count, seed):
    """Stripes in four directions, under noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    waves = np.stack([rows, columns, rows + columns, rows - columns])[labels]
    phase, brightness = draw.uniform(0, 6, (count, 1, 1)), draw.uniform(-0.5, 0.5, (count, 1, 1))
    stripes = np.sin(waves * 1.3 + phase) + brightness
    pixels = stripes[:, None] * draw.uniform(0.5, 1.5, (count, 3, 1, 1)) + draw.normal(0, 1.2, (count, 3, SIZE, SIZE))
    return pixels.astype(np.float32), labels


@pytest.fixture(scope="module")
def network():
    """The trained network as a graph for any batch."""
    torch.manual_seed(0)
    module = Network()
    x, y = (torch.from_numpy(array) for array in images(1200, 1))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for step in range(120):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(x)
        loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = onnx.parser.parse_model(TEXT)
    constants = {name.replace(".", "_"): array.detach().numpy() for name, array in module.named_parameters()}
    constants |= {"low": np.float32(0), "high": np.float32(6), "axes": np.array([2, 3])}
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(model)


def outputs(model, x, batch, *, fused=True):
    session = open_model(model, fused=fused)
    return np.concatenate([session.run(None, {"x": x[row : row + batch]})[0] for row in range(0, len(x), batch)])


@pytest.mark.parametrize("name", PROFILES)
def test_a_trained_network_keeps_its_accuracy_on_every_target(network, name):
    profile = load_profile(name)
    accelerator = profile.accelerator
    found = quantize(network, accelerator, [{"x": images(96, 2)[0]}])
    table = table_of(found.model)
    onnx.checker.check_model(ir.to_proto(found.model), full_check=True)
    assert check_rules(table, profile) == ()
    assert plan_placement(table, accelerator).offload == 1
    assert len(plan_placement(table, accelerator).partitions) == 1
    assert found.examples == 96
    assert found.quantizer.startswith("onnxruntime ")
    x, labels = images(accelerator.batch * (560 // accelerator.batch), 3)
    exact = outputs(found.reference, x, accelerator.batch)
    changed = outputs(found.model, x, accelerator.batch, fused=False)
    np.testing.assert_allclose(exact, outputs(network, x, len(x)), rtol=1e-3, atol=1e-4)
    before, after = (np.mean(array.argmax(1) == labels) for array in (exact, changed))
    assert before > 0.9
    assert after > before - 0.02
    assert signal_to_noise_db({"y": exact}, {"y": changed}) > 20


@pytest.mark.parametrize("name", ["vek280", "ryzen-ai-strix"])
def test_what_is_written_is_what_the_target_asks_for(network, name):
    accelerator = load_profile(name).accelerator
    found = quantize(network, accelerator, [{"x": images(40, 2)[0]}])
    table = table_of(found.model)
    assert table.opset == min(18, accelerator.opset_max)
    assert all(isinstance(size, int) for value in table.values.values() for size in value.shape)
    assert table.values["x"].shape == (accelerator.batch, 3, SIZE, SIZE)
    seen = {"activation": 0, "weight": 0, "bias": 0}
    for node in table.nodes:
        if node.op not in (QUANTIZE, DEQUANTIZE):
            continue
        quantization = node.quantization
        assert len(quantization.scale) == 1
        assert quantization.axis is None
        assert np.frexp(quantization.scale[0])[0] == 0.5
        constant = node.inputs[0] in table.initializers
        kind = "activation" if not constant else "bias" if quantization.dtype == "int32" else "weight"
        expected = accelerator.activation_type if kind == "activation" else "int32" if kind == "bias" else "int8"
        assert quantization.dtype == expected
        assert quantization.zero_point == (accelerator.zero_point if kind == "activation" else 0,)
        seen[kind] += 1
    assert (seen["weight"], seen["bias"]) == (5, 5)
    nodes = {node.op: node for node in table.nodes}
    behind = {name: [node.op for node in table.nodes if name in node.inputs] for name in ("c1", "c2", "s", "c4")}
    assert behind == {"c1": ["Clip"], "c2": ["Clip"], "s": ["Relu"], "c4": ["LeakyRelu"]}
    assert {"kernel_shape", "strides", "pads", "dilations", "group"} <= nodes["Conv"].attributes.keys()
    assert next(node.op for node in table.nodes if "logits" in node.outputs) == "DequantizeLinear"


@pytest.mark.parametrize("name", PROFILES)
def test_an_integer_reference_differs_by_a_step_where_halves_are_rounded_up(network, name):
    accelerator = load_profile(name).accelerator
    found = quantize(network, accelerator, [{"x": images(40, 2)[0]}])
    x, _ = images(2 * accelerator.batch, 5)
    report = compare_operators(found.model, [{"x": x[: accelerator.batch]}, {"x": x[accelerator.batch :]}])
    operators = ["Conv", "MaxPool", "Conv", "Conv", "Add", "Concat", "Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert [operator.op for operator in report.operators] == operators
    assert report.left_out == ()
    assert report.largest == 1
    assert 0 < report.share < 0.05
    assert report.half_to_even == 0


def test_quantizing_is_repeatable(network):
    accelerator = load_profile("kv260").accelerator
    first, second = (quantize(network, accelerator, [{"x": images(24, 2)[0]}]) for _ in range(2))
    assert ir.to_proto(first.model).SerializeToString() == ir.to_proto(second.model).SerializeToString()
