"""What ``fieldtune compile`` says of a given result, and that no time of an emulation passes for a compiler's."""

from pathlib import Path

import pytest

from builders import placement_report
from fieldtune.cli.compile import Compile, _closing, _record
from fieldtune.compilation.compiling import Compiled
from fieldtune.compilation.kept.key import CompileKey

FOLDER = Path("cache/compiled/abc")


@pytest.fixture
def compiled():
    """The function that makes a result."""
    key = CompileKey(
        model="0", target="t", accelerator="0", stack="", driver="", provider="p", provider_version="", options={},
        runtime="1", emulated=False,
    )  # fmt: skip

    def make(*, fresh=True, emulated=False):
        report = placement_report(emulated=emulated)
        return Compiled(folder=FOLDER, key=key, report=report, seconds=61.46, fresh=fresh)

    return make


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({}, "compiled in 61.5 s and kept: cache/compiled/abc"),
        ({"emulated": True}, "checked and kept: cache/compiled/abc"),
        (
            {"fresh": False},
            "kept since it was compiled; compile again with --overwrite: cache/compiled/abc",
        ),
    ],
)
def test_the_last_line(compiled, result, line):
    assert _closing(compiled(**result)) == line


def test_for_programs(compiled):
    command = Compile(bundle=Path("b"), profile="vek280")
    found = _record(command, compiled())
    assert (found["entry"], found["fresh"], found["compile_seconds"]) == (FOLDER, True, 61.46)
    assert found["placement"]["offload"] == 0.99
    assert _record(command, compiled(emulated=True))["compile_seconds"] is None
