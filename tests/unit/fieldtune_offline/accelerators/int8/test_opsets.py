import dataclasses

import numpy as np
import pytest

from fieldtune.errors import UnsupportedModel


def test_reductions_take_their_axes_as_an_attribute_before_opset_18(graph, accelerator):
    from fieldtune_offline.accelerators.int8.opsets import set_opset
    from fieldtune_offline.accelerators.int8.running import open_model

    model = graph("test (float[2,3,4] x) => (float[2,4] y) { y = ReduceMax<keepdims=0>(x, axes) }", axes=np.array([1]))
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    before = open_model(model).run(None, {"x": x})[0]
    set_opset(model, accelerator("ryzen-ai-phoenix"))
    assert model.opset_imports[""] == 17
    (node,) = model.graph
    assert (len(node.inputs), node.attributes["axes"].value) == (1, (1,))
    np.testing.assert_array_equal(open_model(model).run(None, {"x": x})[0], before)


def test_an_opset_in_the_range_stays(graph, accelerator):
    from fieldtune_offline.accelerators.int8.opsets import set_opset

    model = graph("test (float[2] x) => (float[2] y) { y = Relu(x) }", opset=16)
    set_opset(model, accelerator("vek280"))
    assert model.opset_imports[""] == 16
    set_opset(model, dataclasses.replace(accelerator("vek280"), opset_min=17))
    assert model.opset_imports[""] == 17


def test_an_operator_that_means_something_else_there_is_named(graph, accelerator):
    from fieldtune_offline.accelerators.int8.opsets import set_opset

    model = graph(
        "test (float[2,4] x) => (float[2,2] y, float[2,2] z) { y, z = Split<axis=1,num_outputs=2>(x) }",
    )
    with pytest.raises(
        UnsupportedModel, match=r"Split .*: opset 18 defines it otherwise than opset 17, .*AMD_AIE2_4x4"
    ):
        set_opset(model, accelerator("ryzen-ai-phoenix"))


X = "float[1,2,4,4] x"
DEFAULTS = 'mode="linear",antialias=0,keep_aspect_ratio_policy="stretch"'
UNCHANGED = {
    "pad": (f"test ({X}) => (float[1,2,6,5] y) {{ y = Pad(x, pads) }}", {"pads": np.array([0, 0, 1, 0, 0, 0, 1, 1])}),
    "split": (f"test ({X}) => (float[1,2,1,4] y, float[1,2,3,4] z) {{ y, z = Split<axis=2>(x, sizes) }}",
              {"sizes": np.array([1, 3])}),
    "resize": (f"test ({X}) => (float[1,2,8,8] y) {{ y = Resize<{DEFAULTS}>(x, , scales) }}",
               {"scales": np.array([1, 1, 2, 2], np.float32)}),
    "scatter": ("test (float[1,4] x) => (float[1,4] y) { y = ScatterND<reduction=\"add\">(x, at, by) }",
                {"at": np.array([[0, 2]]), "by": np.array([3], np.float32)}),
}  # fmt: skip
CHANGED = {
    "pad": (f"test ({X}) => (float[1,2,6,4] y) {{ y = Pad(x, pads, , axes) }}",
            {"pads": np.array([1, 1]), "axes": np.array([2])}),
    "resize": (f"test ({X}) => (float[1,2,2,2] y) {{ y = Resize<mode=\"linear\",antialias=1>(x, , scales) }}",
               {"scales": np.array([1, 1, 0.5, 0.5], np.float32)}),
    "scatter": ("test (float[1,4] x) => (float[1,4] y) { y = ScatterND<reduction=\"max\">(x, at, by) }",
                {"at": np.array([[0, 2]]), "by": np.array([3], np.float32)}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_uses_nothing_new_stays_as_it_is(graph, accelerator, case):
    import onnx
    import onnx_ir as ir

    from fieldtune_offline.accelerators.int8.opsets import set_opset
    from fieldtune_offline.accelerators.int8.running import open_model

    text, constants = UNCHANGED[case]
    model = graph(text, **constants)
    x = np.random.default_rng(0).normal(size=model.graph.inputs[0].shape.numpy()).astype(np.float32)
    before = open_model(model).run(None, {"x": x})
    set_opset(model, accelerator("ryzen-ai-strix"))
    assert model.opset_imports[""] == 17
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for array, expected in zip(open_model(model).run(None, {"x": x}), before, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("case", CHANGED)
def test_what_uses_something_new_is_named(graph, accelerator, case):
    from fieldtune_offline.accelerators.int8.opsets import set_opset

    text, constants = CHANGED[case]
    with pytest.raises(UnsupportedModel, match="opset 18 defines it otherwise than opset 17"):
        set_opset(graph(text, **constants), accelerator("ryzen-ai-strix"))


@pytest.mark.parametrize(("keep", "last"), [(1, "GlobalAveragePool"), (0, "Flatten")])
def test_means_over_all_pixels_become_pools(graph, keep, last):
    from fieldtune_offline.accelerators.int8.opsets import as_global_pooling
    from fieldtune_offline.accelerators.int8.running import open_model

    shape = "2,3,1,1" if keep else "2,3"
    model = graph(
        f"test (float[2,3,4,5] x) => (float[{shape}] y) {{ y = ReduceMean<keepdims={keep}>(x, axes) }}",
        axes=np.array([2, 3]),
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    before = open_model(model).run(None, {"x": x})[0]
    as_global_pooling(model)
    assert next(reversed(model.graph)).op_type == last
    assert model.graph.outputs[0].name == "y"
    np.testing.assert_allclose(open_model(model).run(None, {"x": x})[0], before, rtol=1e-6)


def test_other_means_stay(graph):
    from fieldtune_offline.accelerators.int8.opsets import as_global_pooling

    model = graph("test (float[2,3,4,5] x) => (float[2,3,4,1] y) { y = ReduceMean(x, axes) }", axes=np.array([3]))
    as_global_pooling(model)
    assert [node.op_type for node in model.graph] == ["ReduceMean"]
