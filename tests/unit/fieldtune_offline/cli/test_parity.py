"""What ``fieldtune-offline parity`` shows of a bundle that exists."""

import json

import pytest

from builders import base_model, image_spec, manifest, merged_manifest, write_bundle
from fieldtune.bundle.manifest import PackedSpec, PackingCost, ParitySpec
from fieldtune.compilation.comparison import OutputDifference
from fieldtune_offline.accelerators.rounding_effects import RoundingEffect
from fieldtune_offline.cli import main
from fieldtune_offline.cli.parity import _rounding_table


@pytest.fixture
def bundle(tmp_path):
    """The function from a manifest to the folder of its bundle."""
    return lambda described: str(write_bundle(tmp_path / "bundle", described, {}).root)


def test_the_figures_of_the_build_are_those_of_the_manifest(bundle, capsys):
    record = ParitySpec(
        batch=4, sequence=0, loss_relative=1e-6, gradient_relative=2e-5, inference_relative=3e-7,
        vanishing_gradients=("a",),
    )  # fmt: skip
    path = bundle(manifest(image=image_spec(), parity=(record,), tools={"torch": "2.13"}))
    assert main(["parity", path]) == 0
    printed = capsys.readouterr().out
    assert "4, -" in printed
    assert "2.0e-05" in printed
    assert main(["parity", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parity"][0]["gradient_relative"] == 2e-5
    assert (found["bundle"], found["tools"], found["rounding"], found["merge_parity"], found["packing_cost"]) == (
        path, {"torch": "2.13"}, None, None, None,
    )  # fmt: skip


def test_of_a_merged_bundle_those_of_the_merge(bundle, capsys):
    assert main(["parity", bundle(merged_manifest()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parity"], found["merge_parity"][0]["loss_relative"]) == ([], 1e-6)


def test_of_a_packed_base_what_packing_costs_is_told(bundle, capsys):
    cost = {
        "batch": 3, "sequence": 17, "loss": 0.5, "packed_loss": 0.625, "gradient_cosine": 0.875,
        "outputs_relative": 0.125,
    }  # fmt: skip
    packed = PackedSpec(recipe="int8", matrices={"q": "int8"}, kept={}, cost=(PackingCost(**cost),))
    path = bundle(manifest(image=image_spec(), base=base_model(packed=packed)))
    assert main(["parity", path]) == 0
    assert "What packing the base costs (int8)" in capsys.readouterr().out
    assert main(["parity", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packing_cost"] == [cost]


def test_a_file_that_was_altered_is_told_first(bundle, tmp_path, capsys):
    bundle(manifest(image=image_spec()))
    (tmp_path / "bundle" / "manifest.json").write_text("{")
    assert main(["parity", str(tmp_path / "bundle")]) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_what_rounding_changes_is_told_of_operators_and_of_the_boundary():
    output = OutputDifference(name="b", step=0.25, quantized=True, largest_lsb=2.0, differing=0.25, beyond=0.125)
    values = {"target": "kv260", "operators": 12, "operator_differing": 0.0625, "left_out": 0, "boundary": (output,)}
    table = _rounding_table([RoundingEffect(operator_largest_lsb=1, **values)])
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("kv260", "12 operators, each by itself", "6.2%", "0.0%", "1 LSB"),
        ("kv260", "b", "25.0%", "12.5%", "2 LSB"),
    ]
    # Of operators it is not known how many differ by more than one step, where some do.
    table = _rounding_table([RoundingEffect(operator_largest_lsb=3, **values)])
    assert next(iter(table.columns[3].cells)) == "-"
