"""``fieldtune check`` on bundles of which there are a manifest and node tables alone: what it prints, and its code."""

import json

import pytest

from builders import BOUNDARY, CPU, VITIS, profile, profile_text, split_tables, table_bundle, whole_tables
from fieldtune.cli import main
from fieldtune.hardware import load_profile
from fieldtune.hardware.specs import CpuSpec, MemorySpec


@pytest.fixture
def whole(tmp_path):
    """A bundle of one product each in its three graphs: 192 · 5208 = 999,936 multiply-accumulates a sample."""
    return str(table_bundle(tmp_path / "bundle", *whole_tables()).root)


@pytest.fixture
def board(tmp_path):
    """The function that writes a profile; returns its path."""

    def write(**changes):
        path = tmp_path / "board.toml"
        path.write_text(profile_text(profile(**changes)), encoding="utf-8")
        return str(path)

    return write


def rows(printed):
    return [line.split() for line in printed.splitlines() if line.strip()]


def test_what_would_run_where_and_how_long_it_may_take(whole, board, capsys):
    assert main(["check", whole, "--profile", board(cpu=CpuSpec(gflops=2.0)), "--batch-size", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"{whole} would run on board (A board)\n" in printed
    found = rows(printed)
    assert ["checked", "for", "4", "examples;", "nothing", "was", "run"] in found
    # 4 samples of 999,936 multiply-accumulates, and 2 GFLOPS are 1e9 of them a second.
    assert ["infer", "4", CPU, "2", "0.004", "G", "100.0", "%"] in found
    assert ["inference", "0.004", "G", "≈", "4.0", "ms"] in found
    assert "left to the CPU" not in printed
    assert "prefix" not in printed


def test_for_programs_it_is_one_object_with_totals(whole, board, capsys):
    assert main(["check", whole, "--profile", board(), "--samples", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["bundle"], found["profile"], found["runs"], found["refusals"]) == (whole, "board", True, [])
    for use in found["memory"]:
        parts = [value for name, value in use.items() if name.endswith("_bytes") and name != "total_bytes"]
        assert use["total_bytes"] == sum(parts) > 91_000_000
    assert found["times"][0]["seconds"] is None


def test_a_device_that_is_too_small_ends_with_code_1_and_the_reason(whole, board, capsys):
    assert main(["check", whole, "--profile", board(memory=MemorySpec(available_for_app_bytes=50_000_000))]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("fieldtune: error: cannot run on board: ")
    assert printed.err.count("\n") == 1
    assert "cannot run on board (A board)" in printed.out
    assert "Peak memory of 50.0 MB, predicted" in printed.out


def test_what_the_accelerator_refuses_is_named_with_what_it_allows(tmp_path, capsys):
    kv260 = load_profile("kv260")
    tables = split_tables(kv260, conv={"kernel": (17, 3)})
    bundle = table_bundle(tmp_path / "bundle", *tables, boundary=(BOUNDARY,), targets=(kv260,))
    assert main(["check", str(bundle.root), "--profile", "kv260"]) == 1
    printed = capsys.readouterr()
    found = rows(printed.out)
    assert ["prefix_kv260:", "refused"] in found
    assert ["kernel", "stem", "17x3", "kernels", "of", "1", "to", "16,", "at", "most", "256", "elements"] in found
    # A batch of one, 16 channels of 8 x 8: 51 and 16 · 9 products an element of the stem and the last convolution.
    assert [
        "prefix_kv260",
        "1",
        VITIS,
        "11",
        f"{1024 * (17 * 3 * 3 + 9 * 16):,}",
        "100.0",
        "%",
        "1",
        "1.2",
        "kB",
    ] in found
    assert printed.err.startswith("fieldtune: error: cannot run on kv260: ")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--batch-size", "0"], "--batch-size is 0; expected at least 1"),
        (["--max-length", "-1"], "--max-length is -1; expected at least 1"),
        (["--samples", "-1"], "--samples is -1; expected at least 0"),
    ],
)
def test_sizes_that_are_none_are_wrong_usage(whole, capsys, flags, line):
    assert main(["check", whole, *flags]) == 2
    assert capsys.readouterr().err == f"fieldtune: error: {line}\n"
