"""A prefix opened on the CPU: any number of samples, in runs of one size; and what it is not fed with."""

import numpy as np
import pytest

from builders import CPU, Graph, graph_spec, image_spec, manifest, table_text, tensor_spec, write_bundle
from fieldtune.bundle.manifest import SplitSpec
from fieldtune.compilation.prefix import open_prefix
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import load_profile

pytest.importorskip("onnxruntime")

GENERIC = load_profile("cpu-generic")


@pytest.fixture
def bundle(tmp_path, onnx_bytes):
    """The function that writes a bundle whose prefix sums rows of three, beside a mask, at a static or any batch."""

    def make(batch, *, split=True):
        made = Graph()
        x, mask = made.input("x", batch, 3), made.input("mask", batch, 3)
        table = made.table(made.add("Mul", [x, mask], (batch, 3)), name="prefix", opset=17)
        spec = graph_spec(
            "prefix",
            inputs=(tensor_spec("x", batch, 3), tensor_spec("mask", batch, 3)),
            outputs=(tensor_spec("b", batch, 3),),
        )
        text = f"prefix (float[{batch},3] x, float[{batch},3] mask) => (float[{batch},3] b) {{ b = Mul(x, mask) }}"
        described = manifest(
            image=image_spec(),
            graphs={"prefix": spec},
            split=SplitSpec(boundary=(tensor_spec("b", "batch", 3),)) if split else None,
        )
        return write_bundle(
            tmp_path / str(batch), described, {spec.path: onnx_bytes(text), spec.nodes: table_text(table).encode()}
        )

    return make


@pytest.mark.parametrize("batch", [4, "batch"])
@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_any_number_of_samples(bundle, batch, rows):
    prefix = open_prefix(bundle(batch), GENERIC)
    x = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    found = prefix.run({"x": x, "mask": np.full((rows, 3), 2, np.float32), "labels": np.zeros(7)})
    assert list(found) == ["b"]
    assert found["b"].dtype == np.float32
    np.testing.assert_array_equal(found["b"], 2 * x)
    assert (prefix.report.actual, prefix.report.batch, prefix.compiles) == (CPU, prefix.batch, 0)


def test_what_is_fed_wrongly_is_the_callers_mistake(bundle):
    prefix = open_prefix(bundle(4), GENERIC)
    with pytest.raises(ValueError, match="the prefix is not fed with x, mask; there are labels"):
        prefix.run({"labels": np.zeros(3)})
    with pytest.raises(ValueError, match=r"different numbers of samples: \{'x': 2, 'mask': 1\}"):
        prefix.run({"x": np.zeros((2, 3), np.float32), "mask": np.zeros((1, 3), np.float32)})


def test_outputs_of_another_batch_size_are_kept_apart(bundle):
    one, other = (open_prefix(bundle(batch), GENERIC) for batch in (4, 5))
    assert one.identity != other.identity
    assert one.identity == open_prefix(bundle(4), GENERIC).identity


def test_a_bundle_that_is_not_split_has_none(bundle):
    with pytest.raises(InvalidBundle, match="is not split; build it with: fieldtune-offline build MODEL --split auto"):
        open_prefix(bundle(4, split=False), GENERIC)
