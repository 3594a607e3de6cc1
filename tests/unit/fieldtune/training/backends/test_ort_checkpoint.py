import struct

import numpy as np
import pytest

from builders import layout, parameter
from fieldtune.errors import CheckpointError
from fieldtune.training.backends.ort_checkpoint import read_adamw, read_parameters, replace_adamw

LAYOUT = layout(
    parameter("q.lora_A.weight", {"rank": 2, "in_features": 3}),
    parameter("q.lora_B.weight", {"out_features": 4, "rank": 2}),
    parameter("head.bias", {"features": 2}, decay=False),
)
# Where a table begins, the identifier, a table without a field, and how far its list of fields lies before it.
EMPTY = struct.pack("<I4sHHi", 12, b"ODTC", 4, 4, 4)


def _state(step, seed):
    rng = np.random.default_rng(seed)
    mean, square = rng.normal(size=(2, LAYOUT.size)).astype(np.float32)
    return {"step": np.array(step, np.int64), "mean": mean, "mean_square": square**2}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint with one optimizer group that has no moments, and some bytes that are none of our business."""
    flatbuffers = pytest.importorskip("flatbuffers")
    build = flatbuffers.Builder(0)
    other = build.CreateByteVector(b"frozen weights " * 9)
    name = build.CreateString("group0")
    build.StartObject(4)
    build.PrependUOffsetTRelativeSlot(0, name, 0)
    build.PrependInt64Slot(1, 7, 0)
    group = build.EndObject()
    build.StartVector(4, 1, 4)
    build.PrependUOffsetTRelative(group)
    groups = build.EndVector()
    build.StartObject(4)
    build.PrependUOffsetTRelativeSlot(2, groups, 0)
    build.PrependUOffsetTRelativeSlot(3, other, 0)
    build.Finish(build.EndObject(), b"ODTC")
    path = tmp_path / "checkpoint"
    path.write_bytes(bytes(build.Output()))
    return path


def test_a_state_comes_back_bit_for_bit_and_leaves_the_rest_where_it_is(saved):
    before = saved.read_bytes()
    with pytest.raises(CheckpointError, match=r"3 parameter\(s\)\n  - q\.lora_A\.weight: no momentum0"):
        read_adamw(saved, LAYOUT)
    for step, seed in ((3, 0), (2**40, 1)):  # the second time in place of the first
        state = _state(step, seed)
        replace_adamw(saved, LAYOUT, state)
        found = read_adamw(saved, LAYOUT)
        assert found.keys() == state.keys()
        for name, array in state.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)
    after = saved.read_bytes()[: len(before)]
    # Four bytes at most are others: where the groups are.
    differing = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert 0 < len(differing) <= 4
    assert differing[-1] - differing[0] < 4


def test_a_state_of_another_adapter_is_refused_with_every_parameter(saved):
    replace_adamw(saved, LAYOUT, _state(1, 0))
    other = layout(
        LAYOUT.parameters[0],
        parameter("q.lora_B.weight", {"out_features": 5, "rank": 2}),
        parameter("tail.bias", {"features": 2}, decay=False),
    )
    with pytest.raises(CheckpointError) as caught:
        read_adamw(saved, other)
    message = str(caught.value)
    assert "2 parameter(s)" in message
    assert "q.lora_B.weight: momentum0 of 8 numbers; expected 10" in message
    assert "tail.bias: no momentum0" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a checkpoint"),
        (b"{}", "not a checkpoint of ONNX Runtime's training API"),
        (b"no checkpoint, but long enough for one" * 9, "not a checkpoint of ONNX Runtime's training API"),
        (EMPTY, "holds 0 optimizer groups; expected 1: saved with its optimizer"),
        (EMPTY[:10], "cannot be read as a checkpoint"),
        (struct.pack("<I4s", 2**31, b"ODTC"), "cannot be read as a checkpoint"),
    ],
)
def test_what_holds_no_optimizer_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    for act in (lambda: read_adamw(path, LAYOUT), lambda: replace_adamw(path, LAYOUT, _state(1, 0))):
        with pytest.raises(CheckpointError) as caught:
            act()
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_what_holds_no_parameters_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(EMPTY)
    with pytest.raises(CheckpointError, match="no values"):
        read_parameters(path, LAYOUT)
    with pytest.raises(CheckpointError, match="nowhere: cannot be read"):
        read_parameters(tmp_path / "nowhere", LAYOUT)


@pytest.mark.parametrize("read", [read_adamw, read_parameters])
def test_a_file_cut_anywhere_is_an_error_and_never_another_state(read, saved):
    replace_adamw(saved, LAYOUT, _state(5, 2))
    whole = saved.read_bytes()
    for size in range(0, len(whole) - 8, 3):
        saved.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read(saved, LAYOUT)
