"""A graph planned for an accelerator: refused by its rules or by the profile's demands, or reported."""

import pytest

from builders import CPU, Graph, altered
from fieldtune.compilation.job import planned_report
from fieldtune.errors import PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider

pytest.importorskip("onnxruntime")

KV260 = load_profile("kv260")


def network(**conv):
    made = Graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    soft = made.quantize(made.add("Softmax", [made.quantize(made.conv(x, "a", **conv))], (1, 16, 8, 8), name="soft"))
    return made.table(made.quantize(made.conv(soft, "b")), opset=17)


def report(table, profile=KV260, **settings):
    return planned_report(table, profile, choose_provider(profile, [CPU], None, "emulate"), "prefix_kv260", **settings)


def test_what_the_accelerator_takes_is_reported():
    found = report(network(), identity="i")
    assert (found.target, found.graph, found.partitions) == ("DPUCZDX8G_ISA1_B4096", "prefix_kv260", 2)
    assert (found.emulated, found.cache_identity) == (True, "i")
    assert found.cpu_operators["Softmax"] == 1
    assert found.offload == 1.0
    assert report(network()).cache_identity == ""


def test_what_it_would_refuse_is_refused_first():
    with pytest.raises(PlacementRefused, match=r"^prefix_kv260: DPUCZDX8G_ISA1_B4096 would refuse it by kernel:"):
        report(network(kernel=(17, 3)), altered(KV260, execution={"max_partitions": 1}))


def test_what_the_profile_demands_is_held():
    with pytest.raises(PlacementRefused, match=r"max_partitions: it is cut into 2 pieces, and the profile allows 1"):
        report(network(), altered(KV260, execution={"max_partitions": 1}))
