"""What the process that compiles is told, and what it tells; how it runs and ends is in test_child."""

import json

import pytest

from builders import VITIS, tensor_spec
from fieldtune.compilation.worker import (
    OUTCOME_NAME,
    Outcome,
    Request,
    read_outcome,
    read_request,
    request_line,
    write_outcome,
)
from fieldtune.errors import CompileError
from fieldtune.placement.readback import Ran, RanPiece
from fieldtune.runtime.providers import ProviderChoice, SessionSettings

pytest.importorskip("onnxruntime")

CHOICE = ProviderChoice(
    provider=VITIS,
    requested=VITIS,
    options={"config_file": "a.json"},
    plugin_library="/lib/ep.so",
    session_settings=SessionSettings(intra_op_threads=3, arena=False),
    reason="as asked for: größer",
    max_partitions=4,
    on_missing="cpu",
)


def test_a_request_is_one_line_and_comes_back():
    request = Request(
        graph="b/prefix.onnx",
        inputs=(tensor_spec("x", "batch", 3, 8), tensor_spec("ids", 1, dtype="int64", pad=2)),
        choice=CHOICE,
        config={"ep.context_enable": "1"},
        context="c/context.onnx",
        folder="c\nd",
        least_s=2.5,
    )
    line = request_line(request)
    assert line.count(b"\n") == 1
    assert read_request(line) == request


def test_an_outcome_is_read_once(tmp_path):
    pieces = (RanPiece(VITIS, (Ran("a", "Conv"), Ran("", "Relu"))), RanPiece("CPUExecutionProvider", ()))
    outcome = Outcome(pieces=pieces, seconds=1.5)
    write_outcome(outcome, tmp_path)
    assert read_outcome(tmp_path) == outcome
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_process_is_the_parents(tmp_path):
    (tmp_path / OUTCOME_NAME).write_text(json.dumps({"error": "g.onnx: too large"}), encoding="utf-8")
    with pytest.raises(CompileError, match=r"^g\.onnx: too large$"):
        read_outcome(tmp_path)
    assert list(tmp_path.iterdir()) == []
