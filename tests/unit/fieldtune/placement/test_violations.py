"""What a rule looks at: the operators that the accelerator would run, by kind and in their order."""

import pytest

from builders import Graph, full_profile, node
from fieldtune.placement.flow.dataflow import trace
from fieldtune.placement.violations import Subject, called


def test_a_rule_sees_the_placed_operators_of_its_kinds_alone():
    made = Graph()
    value = made.input("x", 1, 4)
    for op in ("Relu", "Add", "Relu", "Relu"):
        value = made.add(op, [value], (1, 4))
    profile = full_profile()
    subject = Subject(
        flow=trace(made.table(value)),
        profile=profile,
        accelerator=profile.accelerator,
        placed=frozenset({3, 1, 0}),
        training=False,
    )
    assert [one.name for one in subject.operators("Relu")] == ["Relu0", "Relu3"]
    assert [one.op for one in subject.operators("Add", "Relu")] == ["Relu", "Add", "Relu"]
    assert list(subject.operators("Conv")) == []
    assert subject.table.nodes == tuple(made.nodes)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (node("Relu", ["x"], ["y"], name="relu"), "relu"),
        (node("Relu", ["x"], ["y"]), "Relu → y"),
        (node("Dropout", ["x"], ["", "mask"]), "Dropout → mask"),
        (node("Print", ["x"]), "Print → "),
    ],
)
def test_a_node_goes_by_its_name_or_by_what_it_makes(made, name):
    assert called(made) == name
