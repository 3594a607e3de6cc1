"""What ``fieldtune-offline build`` says of a manifest."""

import dataclasses
import io

import pytest
from rich.console import Console

from builders import full_manifest, manifest, merged_manifest
from fieldtune.bundle.manifest import ParitySpec
from fieldtune_offline.cli import main
from fieldtune_offline.cli.build import parity_tables, stage_printer


def rows(table):
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


def parity(**changes):
    values = {
        "batch": 2, "sequence": 8, "loss_relative": 1e-6, "gradient_relative": 2e-5, "inference_relative": 3e-7,
        "vanishing_gradients": (),
    }  # fmt: skip
    return ParitySpec(**{**values, **changes})


def test_every_shape_that_was_compared_is_a_row():
    (table,) = parity_tables(manifest(parity=(parity(), parity(batch=4, sequence=0, loss_relative=0.0))))
    assert rows(table) == [["2, 8", "1.0e-06", "2.0e-05", "3.0e-07"], ["4, -", "0.0e+00", "2.0e-05", "3.0e-07"]]
    assert table.caption is None


def test_gradients_that_vanish_are_named_once():
    records = (parity(vanishing_gradients=("b", "a")), parity(vanishing_gradients=("b",)))
    (table,) = parity_tables(manifest(parity=records))
    assert table.caption == "Gradients that vanish in torch, too: a, b"


def test_official_artifacts_and_targets_have_tables_of_their_own():
    graphs, _, official, targets = parity_tables(full_manifest())
    assert graphs.title == "Largest differences from torch, relative"
    assert official.title.startswith("ort_training (ONNX Runtime 1.19.2): ")
    assert rows(official) == [["2, 8", "1.0e-06", "1.0e-05"]]
    assert rows(targets) == [["board", "1", "1", "model", "9", "75.0%", "50.0%", "25.0%", "30.0 dB"]]
    assert targets.caption == "board: as it is small"


def test_what_packing_the_base_costs_is_beside_the_parity():
    packing = parity_tables(full_manifest())[1]
    assert packing.title == "What packing the base costs (int4/64/symmetric)"
    assert [column.header for column in packing.columns] == [
        "batch, sequence", "loss in float32", "loss packed", "gradient cosine", "outputs, relative",
    ]  # fmt: skip
    assert rows(packing) == [["2, 9", "0.5000", "0.6250", "0.8750", "1.2e-01"]]


def test_of_images_packing_costs_no_sequence():
    described = full_manifest()
    cost = dataclasses.replace(described.base.packed.cost[0], sequence=0)
    packed = dataclasses.replace(described.base.packed, cost=(cost, cost))
    base = dataclasses.replace(described.base, packed=packed)
    packing = parity_tables(dataclasses.replace(described, base=base))[1]
    assert [row[0] for row in rows(packing)] == ["2, -", "2, -"]


def test_an_accuracy_that_was_not_measured_is_a_dash():
    described = full_manifest()
    target = described.targets["board"]
    bare = dataclasses.replace(described, targets={"board": dataclasses.replace(target, accuracy=None)})
    assert rows(parity_tables(bare)[3]) == [["board", "1", "1", *"------"]]
    part = dataclasses.replace(target.accuracy, after_half_up=None)
    some = dataclasses.replace(described, targets={"board": dataclasses.replace(target, accuracy=part)})
    assert rows(parity_tables(some)[3])[0][5:8] == ["75.0%", "50.0%", "-"]


def test_a_merge_was_compared_with_the_graphs_that_it_is_of():
    (table,) = parity_tables(merged_manifest())
    assert table.title == "Largest differences from the graphs that take the adapter as inputs, relative"
    assert rows(table) == [["2, -", "1.0e-06", "1.0e-06"]]


def test_a_stage_is_a_line_with_the_seconds_since_the_start():
    console = Console(file=io.StringIO(), width=20)
    report = stage_printer(console)
    report("making [the] graphs of a long, long list")
    (line,) = console.file.getvalue().splitlines()
    seconds, said = line.split(" s  ")
    assert float(seconds) < 1
    assert said == "making [the] graphs of a long, long list"


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--task", "fill-mask"], 1, "task 'fill-mask' is known, but not supported"),
        (["--task", "text-classification", "--rank", "0"], 2, "rank is 0; expected at least 1"),
        (["--task", "text-classification", "--base", "fp8"], 2, "base 'fp8' is unknown; expected one of float32, int8"),
        (["--task", "text-classification", "--base", "int8", "--block", "32"], 2, "--block: the base int8 has no such"),
        (["--task", "text-classification", "--base", "int4", "--block", "48"], 2, "block is 48; expected 32, 64, 128"),
        (["--task", "text-classification"], 1, "no such folder; expected a model directory"),
    ],
)
def test_a_build_that_cannot_be_ends_in_one_line(tmp_path, capsys, flags, code, said):
    assert main(["build", str(tmp_path / "none"), *flags, "--out", str(tmp_path / "out")]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert not (tmp_path / "out").exists()
