import dataclasses

from fieldtune.hardware import load_profile
from fieldtune.preflight.placing import LeftToCpu, place_graph
from fieldtune.preflight.workload import parts_of

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")


def place(bundle, profile):
    return place_graph(parts_of(bundle, profile, "training", 1)[0], profile, {"batch": 2})


def test_the_cpu_runs_everything_where_there_is_no_accelerator(whole):
    found = place(whole(), PI)
    (share,) = found.shares
    assert (share.provider, share.nodes, share.macs) == ("CPUExecutionProvider", 2, 2 * 5208 * 192)
    assert (found.partitions, found.violations, found.faults) == (0, (), ())


def test_an_accelerator_runs_what_its_compiler_takes(split):
    found = place(split(KV260), KV260)
    assert [share.provider for share in found.shares] == ["VitisAIExecutionProvider", "CPUExecutionProvider"]
    assert [share.macs for share in found.shares] == [16 * 64 * 9 * (3 + 16), 0]
    assert found.partitions == 1
    assert found.boundary_bytes == 3 * 64 + 16 * 64
    assert {left.op for left in found.left} == {"QuantizeLinear", "DequantizeLinear"}
    assert (found.violations, found.faults) == ((), ())


def test_what_is_left_to_the_cpu_comes_with_its_reason(split):
    found = place(split(KV260, middle="Gelu"), KV260)
    assert found.partitions == 2
    assert LeftToCpu(op="Gelu", reason="Gelu runs on the CPU on a DPU", nodes=1) in found.left


def test_what_would_be_refused_comes_with_its_rule(split):
    found = place(split(KV260, conv={"kernel": (17, 17)}), KV260)
    assert [(violation.rule, violation.node) for violation in found.violations if violation.rule == "kernel"] == [
        ("kernel", "stem")
    ]


def test_nothing_is_counted_of_a_graph_with_dynamic_shapes(split):
    found = place(split(KV260, dynamic=True), KV260)
    assert "dynamic-shape" in {violation.rule for violation in found.violations}
    assert (found.shares, found.partitions) == ((), 0)


def test_what_the_profile_asks_for_is_held_against_the_plan(split):
    execution = dataclasses.replace(KV260.execution, min_offload=1.0, max_partitions=1)
    profile = dataclasses.replace(KV260, execution=execution)
    assert place(split(KV260, middle="Gelu"), profile).faults == (
        "prefix_kv260: DPUCZDX8G_ISA1_B4096 would run it in 2 pieces; the profile allows 1 (max_partitions)",
    )
