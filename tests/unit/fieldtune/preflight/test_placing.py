import dataclasses

from fieldtune.hardware import load_profile
from fieldtune.preflight.placing import LeftToCpu, place_graph
from fieldtune.preflight.workload import Part, workload_of

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")


def place(bundle, profile):
    return place_graph(workload_of(bundle, profile, "training", batch=2, sequence=0).parts[0], profile)


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


def demanding(**execution):
    return dataclasses.replace(KV260, execution=dataclasses.replace(KV260.execution, **execution))


def test_what_the_profile_asks_for_is_held_against_the_plan(split):
    (fault,) = place(split(KV260, middle="Gelu"), demanding(min_offload=1.0, max_partitions=1)).faults
    assert fault.startswith("prefix_kv260: max_partitions: it is cut into 2 pieces, and the profile allows 1; the CPU")


def test_a_plan_that_gives_the_accelerator_nothing_is_a_fault_whatever_is_asked_for(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 4, 4))
    product = made.quantize(made.add("MatMul", [x, x], (1, 4, 4), macs=(1, 4, 4, 4)))
    table = made.table(made.quantize(made.add("Softmax", [product], (1, 4, 4))), name="prefix_kv260")
    part = Part(graph=table.graph, is_prefix=True, on_accelerator=True, batch=1, table=table, sequence=0, rank=0)
    (fault,) = place_graph(part, demanding(min_offload=0.0)).faults
    on_cpu = "3 QuantizeLinear, 3 DequantizeLinear, 1 MatMul, 1 Softmax"
    assert fault == f"prefix_kv260: nothing of it runs on VitisAIExecutionProvider; the CPU runs {on_cpu}"
