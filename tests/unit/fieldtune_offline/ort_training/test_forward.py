"""The forward graph that is differentiated: the adapter as PEFT stores it, and the results of eval.onnx fed with it."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from builders import adapter, graph_spec, layout, manifest, parameter, tensor_spec
from fieldtune.adapters.adapter import PREFIX
from fieldtune.adapters.arrays import inference_inputs
from fieldtune.bundle.opening import Bundle
from fieldtune_offline.ort_training.forward import forward_model, frozen_parameters

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "rank_pattern": {"k": 1}}
DRAW = np.random.default_rng(0)
WEIGHT = DRAW.standard_normal((9, 9)).astype(np.float32)
SHAPES = {"q": (2, 9, 9), "k": (1, 9, 9)}


def key(module, part):
    return f"{PREFIX}{module}.lora_{part}.weight"


TENSORS = {
    name: DRAW.standard_normal(shape).astype(np.float32)
    for module, (rank, into, out) in SHAPES.items()
    for name, shape in ((key(module, "A"), (rank, into)), (key(module, "B"), (out, rank)))
}


@pytest.fixture
def bundle(tmp_path):
    """A bundle of eval.onnx alone: two layers of LoRA, of ranks 2 and 1, behind a layer normalization."""
    f32 = TensorProto.FLOAT
    names = {"batch": ["batch", 9], "a": [9, "rank"], "b": ["rank", 9]}
    info = helper.make_tensor_value_info
    inputs = [info("x", f32, names["batch"])]
    inputs += [info(key(module, part), f32, names[part.lower()]) for module in SHAPES for part in "AB"]
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w"], ["h"], name="frozen"),
    ]
    value = "h"
    for module in SHAPES:
        nodes += [
            helper.make_node("MatMul", [value, key(module, "A")], [f"{module}.p"], name=f"{module}.a"),
            helper.make_node("MatMul", [f"{module}.p", key(module, "B")], [f"{module}.q"], name=f"{module}.b"),
            helper.make_node("Add", [f"{module}.q", "h"], [f"{module}.y"], name=f"{module}.add"),
        ]
        value = f"{module}.y"
    nodes += [
        helper.make_node("Tanh", [value], ["logits"], name="logits"),
        helper.make_node("ReduceSumSquare", ["logits"], ["loss_sum"], name="sum", keepdims=0),
        helper.make_node("Shape", ["x"], ["count"], name="count", start=0, end=1),
        helper.make_node("Cast", ["count"], ["counts"], name="cast", to=f32),
        helper.make_node("ReduceSum", ["counts"], ["weight"], name="weight", keepdims=0),
    ]
    outputs = [info("loss_sum", f32, []), info("weight", f32, []), info("logits", f32, names["batch"])]
    defaults = {key(module, part): np.zeros((9, 1) if part == "A" else (1, 9), np.float32) for module in SHAPES
                for part in "AB"}  # fmt: skip
    held = {"w": WEIGHT, "scale": np.ones(9, np.float32), **defaults}
    graph = helper.make_graph(
        nodes, "eval", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in held.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    (tmp_path / "graphs").mkdir()
    onnx.save(model, tmp_path / "graphs" / "eval.onnx")
    parameters = []
    for module, (rank, into, out) in SHAPES.items():
        parameters += [
            parameter(key(module, "A"), {"rank": rank, "in_features": into}, module=module, transposed=True),
            parameter(
                key(module, "B"), {"out_features": out, "rank": rank}, module=module, transposed=True, scaled=True
            ),
        ]
    spec = graph_spec("eval", inputs=(tensor_spec("x", "batch", 9),))
    return Bundle(tmp_path, manifest(layout=layout(*parameters), peft_config=CONFIG, graphs={"eval": spec}))


@pytest.fixture
def forward(bundle):
    return forward_model(bundle.root, bundle.manifest, adapter(CONFIG, TENSORS))


def run(path_or_bytes, feeds):
    session = onnxruntime.InferenceSession(path_or_bytes, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_the_mean_loss_is_that_of_the_evaluation_graph(bundle, forward):
    proto = ir.to_proto(forward)
    onnx.checker.check_model(proto)
    feeds = {"x": DRAW.standard_normal((4, 9)).astype(np.float32)}
    # lora_alpha / rank is 4 of the one and 8 of the other, whose rank is filled up with zeros.
    fed = inference_inputs(adapter(CONFIG, TENSORS), bundle)
    assert {array.shape for array in fed.values()} == {(9, 2), (2, 9)}
    expected = run(str(bundle.root / "graphs" / "eval.onnx"), {**feeds, **fed})
    found = run(proto.SerializeToString(), feeds)
    assert list(found) == ["loss", "logits"]
    np.testing.assert_allclose(found["loss"], expected["loss_sum"] / 4, rtol=1e-5)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-5)


def test_parameters_are_initializers_in_pefts_own_shapes(forward):
    assert [value.name for value in forward.graph.inputs] == ["x"]
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(forward.graph.initializers[name].const_value.numpy(), array)


def test_only_large_floats_of_the_base_are_frozen_weights(bundle, forward):
    assert frozen_parameters(forward, bundle.manifest) == ["w"]


def test_a_normalization_names_all_that_its_gradient_reads(forward):
    (norm,) = (node for node in forward.graph if node.op_type == "LayerNormalization")
    assert len(norm.inputs) == len(norm.outputs) == 3
    np.testing.assert_array_equal(norm.inputs[2].const_value.numpy(), np.zeros(9))
