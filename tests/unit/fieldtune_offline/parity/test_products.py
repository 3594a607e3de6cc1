"""Products of integers of graphs as written, each held to torch's arithmetic with what the graph itself multiplied."""

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from builders import lora_config, manifest
from fieldtune.adapters import read_adapter
from fieldtune.bundle import Bundle
from fieldtune.bundle.manifest import ADAPTER_NAME, WEIGHTS_NAME
from fieldtune.errors import ParityError
from fieldtune_offline.graph import packed_weights
from fieldtune_offline.losses.cross_entropy import chunked_cross_entropy
from fieldtune_offline.parity.products import TOLERANCE, check_products, products_of, show_rounds
from fieldtune_offline.precisions.holding import held_matrix
from fieldtune_offline.precisions.packing import pack_base
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.weights import bind_weights, write_weights
from packed_graphs import Net, Squares, adapted_net, net_graphs


@dataclasses.dataclass
class Made:
    """What a build has when it compares products."""

    bundle: Bundle
    graphs: list
    adapted: object

    def check(self):
        initial = read_adapter(self.bundle.root / ADAPTER_NAME)
        return check_products(self.bundle, self.graphs, self.adapted, Squares(self.adapted.model), initial, (3, 0))


@pytest.fixture
def made(tmp_path):
    """The function from a recipe to a bundle in the making: weights, adapter and graphs are there."""

    def make(recipe, kind=Net):
        adapted = adapted_net(kind)
        pack_base(adapted.model, precision_of(recipe))
        graphs = net_graphs(adapted)
        (tmp_path / "graphs").mkdir()
        weights = tmp_path / WEIGHTS_NAME
        slots = write_weights(weights, {name: tensor for graph in graphs for name, tensor in graph.weights.items()})
        for graph in graphs:
            bind_weights(graph.unbound, slots, weights)
            graph.model.graph.inputs.extend(packed_weights(graph.model.graph))
        with quiet_loading():
            adapted.model.save_pretrained(str(tmp_path / ADAPTER_NAME))
        config = lora_config(r=2, lora_alpha=4, bias="none", lora_bias=False)
        described = manifest(
            layout=adapted.layout, peft_config=config, labels=(), graphs={g.name: g.spec("graphs") for g in graphs}
        )
        return Made(Bundle(tmp_path, described), graphs, adapted)

    return make


def test_every_product_is_found_forward_and_backward(made):
    gradient, infer = made("int8").graphs
    layers = [(product.parts[0], product.backward) for product in products_of(gradient).values()]
    assert layers == [
        *((f"{layer}.codes", False) for layer in ("first", "middle", "last")),
        *((f"{layer}.codes@backward", True) for layer in ("last", "middle")),
    ]
    assert [product.rows for product in products_of(infer).values()] == [32, 16, 4]


def test_products_as_they_were_written_are_torchs_and_nothing_is_left_behind(made):
    found = made("int8")
    outputs = [list(graph.model.graph.outputs) for graph in found.graphs]
    assert found.check() < 1e-6
    assert sorted(path.name for path in (found.bundle.root / "graphs").iterdir()) == ["weights.safetensors"]
    assert [list(graph.model.graph.outputs) for graph in found.graphs] == outputs


def test_graphs_without_such_products_are_passed_over(made):
    assert made("int4/64/asymmetric").check() == 0


def test_a_graph_that_multiplies_otherwise_is_an_error_that_names_every_product(made):
    found = made("int8")
    for graph in found.graphs:
        (middle,) = [
            value
            for value in graph.model.graph.initializers.values()
            if value.dtype == ir.DataType.UINT8 and value.shape.dims == () and value.const_value.numpy() == 128
        ]
        quantized = [node for node in graph.model.graph if node.op_type == "MatMulIntegerToFloat"]
        assert {node.inputs[4] for node in quantized} == {middle}
        wrong = ir.Value(name="wrong", type=middle.type, shape=middle.shape)
        wrong.const_value = ir.tensor(middle.const_value.numpy() + 1, name="wrong")
        graph.model.graph.initializers["wrong"] = wrong
        for node in (quantized[1], quantized[-1]):
            node.replace_input_with(4, wrong)
    with pytest.raises(ParityError, match="are not those of torch; nothing was written") as caught:
        found.check()
    faults = str(caught.value).splitlines()[1:]
    named = [(line.split(".onnx: ")[0], line.split(" of ")[1].split(" ")[0]) for line in faults]
    assert named == [
        ("  - gradient", "middle.codes"),
        ("  - gradient", "middle.codes@backward"),
        ("  - infer", "middle.codes"),
        ("  - infer", "last.codes"),
    ]
    assert not (found.bundle.root / "graphs" / "probe.onnx").exists()


def test_what_is_compared_with_is_what_was_written(made):
    """Other weights in the file are other products in graph and torch alike."""
    found = made("int8")
    path = found.bundle.root / WEIGHTS_NAME
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["middle.scales"] *= 3
    save_file(tensors, str(path), metadata={"format": "pt"})
    assert found.check() < TOLERANCE


SCAN = """<ir_version: 8, opset_import: ["": 18]> g (float[n,k,2] x, float[2] w) => (float[n,k,2] y) {
  y = Scan <num_scan_inputs = 1, body = b (float[c,2] row) => (float[c,2] z) {
    double = Mul (row, w)
    z = Relu (double)
  }> (x)
}"""


def test_what_a_loops_body_computes_is_shown_round_by_round():
    model = ir.from_onnx_text(SCAN)
    (scan,) = model.graph
    shown = show_rounds(scan, ["row", "double", "z", "w"], model.graph)
    # What is read from around the body is no value of it.
    assert list(shown) == ["row", "double", "z"]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2) - 5
    row, double, z = session.run(list(shown.values()), {"x": x, "w": np.array([2, -3], np.float32)})
    assert np.array_equal(row, x)
    assert np.array_equal(double, x * [2, -3])
    assert np.array_equal(z, np.maximum(double, 0))


class WithLoss(nn.Module):
    """A network whose answer is the loss of a head that is computed in chunks of two rows."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(48, 32), nn.Linear(32, 16)
        self.last = nn.Linear(16, 4, bias=False)

    def forward(self, x):
        hidden = torch.tanh(self.middle(torch.tanh(self.first(x))))
        held = held_matrix(self.last)
        targets = torch.ones_like(hidden[:, 0], dtype=torch.int64)
        loss, _, _ = chunked_cross_entropy(hidden, targets, held.parts, None, held.precision.recipe, 4, 2)
        return loss + torch.zeros_like(hidden[:, :1])


def test_products_in_a_loop_are_held_to_torch_like_others(made):
    found = made("int8", WithLoss)
    gradient, infer = found.graphs
    layers = [(product.parts[0], product.backward) for product in products_of(gradient).values()]
    assert set(layers) >= {("last.codes", False), ("last.codes", True)}
    assert [product.parts[0] for product in products_of(infer).values()].count("last.codes") == 1
    assert found.check() < 1e-6
    (scan,) = [node for node in gradient.model.graph if node.op_type == "Scan"]
    body = scan.attributes["body"].as_graph()
    first, second = [node for node in body if node.op_type == "MatMulIntegerToFloat"]
    one = gradient.model.graph.initializers[first.inputs[2].name]
    wrong = ir.Value(name="wrong", type=one.type, shape=one.shape, const_value=ir.tensor(1.01, ir.DataType.FLOAT))
    gradient.model.graph.initializers["wrong"] = wrong
    second.replace_input_with(2, wrong)
    with pytest.raises(ParityError, match=r"gradient\.onnx: chunk_\d+\.\S+ of last\.codes differs by 1\.0e-02"):
        found.check()
