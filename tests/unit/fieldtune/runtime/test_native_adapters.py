"""An adapter in ONNX Runtime's own form: the same results as inputs fed by name, and no file that stays."""

import tempfile

import numpy as np
import pytest

from fieldtune.errors import OutputError
from fieldtune.hardware.installed import features
from fieldtune.runtime.native_adapters import native_adapter, run_options

ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.skipif(not features().has_lora_adapter, reason="this ONNX Runtime has no LoraAdapter")

# y = x @ a @ b + x, of any rank; a and b are zeros of rank 1 where nothing is fed.
LORA = """infer (float[n,3] x, float[3,rank] a, float[rank,3] b) => (float[n,3] y) {
    p = MatMul(x, a) q = MatMul(p, b) y = Add(q, x)
}"""


@pytest.fixture
def session(onnx_bytes):
    data = onnx_bytes(LORA, a=np.zeros((3, 1), np.float32), b=np.zeros((1, 3), np.float32))
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


def test_adapters_of_any_rank_come_and_go_run_by_run(session, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draw, x = np.random.default_rng(0), np.ones((2, 3), np.float32)
    for rank in (1, 4):
        fed = {
            "a": draw.standard_normal((3, rank)).astype(np.float32),
            "b": draw.standard_normal((rank, 3)).astype(np.float32),
        }
        adapter = native_adapter(fed)
        assert list(tmp_path.iterdir()) == []
        (found,) = session.run(["y"], {"x": x}, run_options(adapter))
        np.testing.assert_array_equal(found, session.run(["y"], {"x": x, **fed})[0])
        assert not np.array_equal(found, x)
    np.testing.assert_array_equal(session.run(["y"], {"x": x})[0], x)


def test_a_temporary_folder_that_cannot_take_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone: the adapter cannot be handed to ONNX Runtime .* set TMPDIR"):
        native_adapter({"a": np.zeros((3, 1), np.float32)})
