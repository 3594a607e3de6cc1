"""The rules of an accelerator: each has a check, a message that says what to do, and all are told at once."""

from typing import get_args

import pytest

from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.placement.rules import CHECKS, check_rules, refuse
from fieldtune.placement.violations import Rule
from rule_checks import KV260, one, one_conv


def test_every_rule_has_a_check():
    assert tuple(CHECKS) == get_args(Rule)
    assert all(check.what.endswith(".") or "≤" in check.what for check in CHECKS.values())


def test_a_graph_that_obeys(graph):
    assert check_rules(one_conv(graph), KV260) == ()
    assert check_rules(one_conv(graph), load_profile("cpu-generic"), training=True) == ()


def test_a_violation_says_what_where_and_what_to_do(graph):
    violation = one(one_conv(graph, kernel=(17, 3)))
    assert (violation.rule, violation.node, violation.found) == ("kernel", "conv", "17x3")
    assert violation.limit == "kernels of 1 to 16, at most 256 elements"
    assert violation.message == (
        "kernel: conv: found 17x3, allowed kernels of 1 to 16, at most 256 elements; keep it out of the prefix "
        "(--split) or take a smaller kernel"
    )


def test_a_node_without_a_name_is_called_by_what_it_makes(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    weight = made.weight("w", 16, 16, 1, 1)
    attributes = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "kernel_shape": [1, 1]}
    made.add("Conv", [x, weight], (1, 16, 8, 8), name="", **attributes)
    output = made.nodes[-1].outputs[0]
    violation = one(made.table(made.quantize(output)))
    assert (violation.node, violation.found) == (f"Conv → {output}", "no group")


def test_refusing_lists_every_violation(graph):
    table = one_conv(graph, shape=(2, 16, 8, 8), strides=[1, 9], kernel=(17, 17))
    with pytest.raises(PlacementRefused) as caught:
        refuse(check_rules(table, KV260), "prefix", "DPUCZDX8G_ISA1_B4096")
    lines = str(caught.value).splitlines()
    assert lines[0] == "prefix: DPUCZDX8G_ISA1_B4096 would refuse it by batch, kernel, stride:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  - batch", "  - kernel", "  - stride"]
    refuse((), "prefix", "DPUCZDX8G_ISA1_B4096")
