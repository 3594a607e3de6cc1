import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldtune.hardware import load_profile
from fieldtune.placement.plan import estimate_run_s, plan_placement

KV260 = load_profile("kv260").accelerator
STRIX = load_profile("ryzen-ai-strix").accelerator


def reasons(table, plan):
    return {table.nodes[node.index].name: node.reason for node in plan.cpu}


def named(table, indices):
    return {table.nodes[index].name for index in indices}


def residual(graph, **kwargs):
    """Input, two convolutions with a shortcut over the second, and a pool: quantized everywhere."""
    made = graph(**kwargs)
    x = made.quantize(made.input("x", 1, 3, 8, 8))
    stem = made.quantize(made.add("Clip", [made.conv(x, "stem")], (1, 16, 8, 8), name="relu6"))
    inner = made.quantize(made.conv(stem, "inner"))
    total = made.quantize(made.add("Add", [stem, inner], (1, 16, 8, 8), name="add"))
    pooled = made.quantize(made.add("GlobalAveragePool", [total], (1, 16, 1, 1), name="pool"))
    return made, pooled


def test_a_quantized_network_is_one_partition(graph):
    made, pooled = residual(graph)
    table = made.table(pooled)
    plan = plan_placement(table, KV260)
    assert len(plan.partitions) == 1
    # What the graph is fed is quantized by the CPU, and what it puts out is dequantized there.
    assert reasons(table, plan) == {
        "QuantizeLinear0": "quantizes what the CPU computes or is fed",
        table.nodes[-1].name: "dequantizes what the CPU reads",
    }
    assert plan.cpu_operators == {"QuantizeLinear": 1, "DequantizeLinear": 1}
    assert plan.accelerator_nodes == len(table.nodes) - 2
    assert plan.accelerator_macs == 16 * 64 * (3 + 16) * 9
    assert (plan.cpu_macs, plan.offload) == (0, 1.0)
    assert plan.partitions[0].bytes_in == 3 * 8 * 8  # int8
    assert plan.partitions[0].bytes_out == 16
    assert plan.boundary_bytes == 192 + 16


def test_an_operator_of_the_cpu_between_cuts_in_two(graph):
    made = graph()
    x = made.quantize(made.input("x", 4, 16))
    hidden = made.quantize(made.gemm(x, "up", 32))
    activated = made.quantize(made.add("Gelu", [hidden], (4, 32), name="gelu"))
    out = made.quantize(made.gemm(activated, "down", 16))
    table = made.table(out)
    plan = plan_placement(table, KV260)
    first, second = (named(table, partition.nodes) for partition in plan.partitions)
    assert "up" in first
    assert "down" in second
    assert reasons(table, plan)["gelu"] == "Gelu runs on the CPU on a DPU"
    assert [(partition.bytes_in, partition.bytes_out) for partition in plan.partitions] == [
        (4 * 16, 4 * 32),
        (4 * 32, 4 * 16),
    ]
    assert plan.boundary_bytes == 2 * (4 * 16 + 4 * 32)
    assert [partition.macs for partition in plan.partitions] == [4 * 16 * 32] * 2


def test_a_partition_is_not_entered_again(graph):
    """A convolution, then an operator of the CPU, then an addition of both: the addition cannot be in the partition."""
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    conv = made.quantize(made.conv(x, "conv"))
    other = made.quantize(made.add("Sigmoid", [conv], (1, 16, 8, 8), name="sigmoid"))
    product = made.quantize(made.add("Mul", [conv, other], (1, 16, 8, 8), name="mul"))
    out = made.quantize(made.conv(product, "last"))
    table = made.table(out)
    plan = plan_placement(table, KV260)
    first, second = (named(table, partition.nodes) for partition in plan.partitions)
    assert "conv" in first
    assert {"mul", "last"} <= second
    # The first partition's result crosses once to the CPU and once into the second one.
    assert [partition.bytes_out for partition in plan.partitions] == [1024, 1024]
    assert [partition.bytes_in for partition in plan.partitions] == [1024, 2048]


def test_operators_that_share_an_input_are_partitions_of_their_own(graph):
    made = graph()
    x = made.quantize(made.input("x", 4, 16))
    outputs = [made.quantize(made.gemm(x, name, 16)) for name in ("query", "key", "value")]
    plan = plan_placement(made.table(*outputs), KV260)
    assert [(partition.bytes_in, partition.bytes_out) for partition in plan.partitions] == [(64, 64)] * 3


def test_nothing_heavy_near_it(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    moved = made.quantize(made.add("Reshape", [x, made.constant("size", 2, dtype="int64")], (1, 1024), name="flat"))
    doubled = made.quantize(made.add("Add", [moved, moved], (1, 1024), name="add"))
    table = made.table(doubled)
    plan = plan_placement(table, KV260)
    assert plan.partitions == ()
    lonely = "no convolution, pool or matrix product near it"
    assert [reasons(table, plan)[name] for name in ("flat", "add")] == [lonely, lonely]
    assert plan.offload == 0.0


@pytest.mark.parametrize(
    ("accelerator", "called", "settings"),
    [(KV260, "a DPU", {}), (STRIX, "an NPU", {"dtype": "uint8", "zero_point": 128})],
    ids=["dpu", "npu"],
)
def test_what_runs_on_the_cpu_and_why(graph, accelerator, called, settings):
    made = graph(**settings)
    x = made.quantize(made.input("x", 1, 4, 16))
    scores = made.quantize(made.add("MatMul", [x, x], (1, 4, 4), name="scores", macs=(1, 4, 4, 16)))
    soft = made.quantize(made.add("Softmax", [scores], (1, 4, 4), name="softmax"))
    picture = made.quantize(made.input("picture", 1, 8, 4, 4))
    grouped = made.quantize(made.conv(picture, "grouped", channels=8, group=2))
    resized = made.add("Resize", [grouped], (1, 8, 8, 8), name="resize", mode="cubic")
    table = made.table(soft, resized)
    plan = plan_placement(table, accelerator)
    assert plan.partitions == ()
    found = reasons(table, plan)
    assert found["scores"] == "a product of two activations"
    assert found["softmax"] == f"Softmax runs on the CPU on {called}"
    assert found["grouped"] == "a convolution in 2 groups of several channels"
    assert found["resize"] == f"Resize with mode 'cubic' runs on the CPU on {called}"
    assert plan.cpu_macs == 1 * 4 * 4 * 16 + 8 * 16 * 4 * 9


def test_other_convolutions_of_the_cpu(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 4, 4, 4))
    weights = made.quantize(made.input("w", 8, 4, 3, 3))
    fed = made.add("Conv", [x, weights], (1, 8, 4, 4), name="fed")
    line = made.quantize(made.input("line", 1, 4, 16))
    flat = made.add("Conv", [line, made.weight("w1", 8, 4, 3)], (1, 8, 16), name="flat")
    attributes = {"output_padding": [1, 1], "strides": [2, 2]}
    up = made.add("ConvTranspose", [x, made.weight("w2", 4, 8, 2, 2)], (1, 8, 9, 9), name="up", **attributes)
    table = made.table(fed, flat, up)
    found = reasons(table, plan_placement(table, KV260))
    assert found["fed"] == "its weights are computed"
    assert found["flat"] == "a convolution of other than two dimensions"
    assert found["up"] == "a transposed convolution with output_padding"


def test_depthwise_and_transposed_convolutions_are_taken(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 8, 4, 4))
    depthwise = made.quantize(made.conv(x, "depthwise", channels=8, group=8))
    weight = made.weight("w", 8, 4, 2, 2)
    up = made.quantize(made.add("ConvTranspose", [depthwise, weight], (1, 4, 8, 8), name="up", strides=[2, 2]))
    single = made.weight("w1", 4, 1, 2, 2)
    last = made.quantize(made.add("ConvTranspose", [up, single], (1, 4, 16, 16), name="each", group=4))
    assert len(plan_placement(made.table(last), KV260).partitions) == 1


def test_an_operator_without_weights_that_is_not_quantized_runs_on_the_cpu(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    conv = made.quantize(made.conv(x, "conv"))
    beside = made.input("beside", 1, 16, 8, 8)
    mixed = made.quantize(made.add("Add", [conv, beside], (1, 16, 8, 8), name="mixed"))
    doubled = made.add("Add", [mixed, mixed], (1, 16, 8, 8), name="doubled")
    table = made.table(doubled)
    found = reasons(table, plan_placement(table, KV260))
    assert found["mixed"] == "what it reads is not quantized"
    assert found["doubled"] == "what it writes is not quantized"


def test_a_fused_activation_is_where_its_convolution_is(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    activated = made.quantize(made.add("Relu", [made.conv(x, "conv")], (1, 16, 8, 8), name="relu"))
    flat = made.add("Flatten", [made.conv(activated, "next")], (1, 1024), name="flat")
    table = made.table(made.quantize(flat))
    (partition,) = plan_placement(table, KV260).partitions
    assert {"conv", "relu", "next", "flat"} <= named(table, partition.nodes)


def test_constants_are_beside_what_reads_them(graph):
    made = graph()
    x = made.quantize(made.input("x", 4, 16))
    folded = made.add("Transpose", [made.weight("w", 8, 16)], (16, 8), name="transpose", perm=[1, 0])
    product = made.quantize(made.add("MatMul", [x, folded], (4, 8), name="product", macs=(4, 8, 16)))
    size = made.add("Shape", [product], (2,), name="shape", dtype="int64")
    zeros = made.add("ConstantOfShape", [size], (4, 8), name="zeros")
    table = made.table(made.add("Where", [product, zeros], (4, 8), name="where"))
    plan = plan_placement(table, KV260)
    assert {"transpose", "product"} <= named(table, plan.partitions[0].nodes)
    assert reasons(table, plan)["zeros"] == "a constant that the CPU reads"
    assert plan.partitions[0].bytes_in == 64  # weights do not cross


def test_a_dequantization_that_both_sides_read_is_where_its_tensor_is_made(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    shared = made.quantize(made.conv(x, "conv"))
    soft = made.add("Softmax", [shared], (1, 16, 8, 8), name="softmax")
    out = made.quantize(made.conv(shared, "next"))
    table = made.table(soft, out)
    (partition,) = plan_placement(table, KV260).partitions
    producer = next(node.name for node in table.nodes if node.outputs == (shared,))
    assert producer in named(table, partition.nodes)
    assert partition.bytes_out == 2 * 1024  # both quantized, what the CPU reads and what is put out

    made = graph()
    fed = made.quantize(made.input("x", 1, 16, 8, 8))
    soft = made.add("Softmax", [fed], (1, 16, 8, 8), name="softmax")
    table = made.table(soft, made.quantize(made.conv(fed, "conv")))
    plan = plan_placement(table, KV260)
    assert reasons(table, plan)["DequantizeLinear1"] == "dequantizes what the CPU reads"
    assert plan.partitions[0].bytes_in == 1024


def test_a_branch_that_reads_a_value_is_on_its_path(graph):
    made = graph()
    x = made.quantize(made.input("x", 1, 16, 8, 8))
    conv = made.quantize(made.conv(x, "conv"))
    body = {"operators": ["Relu"], "captured": [conv]}
    branch = made.quantize(
        made.add("If", [made.constant("yes", dtype="bool", value=True)], (1, 16, 8, 8), name="if", then_branch=body)
    )
    total = made.quantize(made.add("Add", [conv, branch], (1, 16, 8, 8), name="add"))
    out = made.quantize(made.conv(total, "last"))
    table = made.table(out)
    first, second = (named(table, partition.nodes) for partition in plan_placement(table, KV260).partitions)
    assert "conv" in first
    assert {"add", "last"} <= second


SHAPE = (1, 16, 8, 8)


@given(
    st.lists(st.tuples(st.sampled_from(["Conv", "Relu", "Add", "Sigmoid", "AveragePool"]), st.booleans()), max_size=9)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_node_is_in_one_place_and_no_path_comes_back(graph, steps):
    """Each step reads the value before it, an addition the one before that, too, and is quantized or not."""
    made = graph()
    values = [made.quantize(made.input("x", *SHAPE))] * 2
    for number, (op, quantized) in enumerate(steps):
        name = f"{op}_{number}"
        inputs = values[-2:] if op == "Add" else values[-1:]
        value = made.conv(values[-1], name) if op == "Conv" else made.add(op, inputs, SHAPE, name=name)
        values.append(made.quantize(value) if quantized else value)
    table = made.table(values[-1], values[-2])
    plan = plan_placement(table, KV260)
    places = [
        *(node.index for node in plan.cpu),
        *(index for partition in plan.partitions for index in partition.nodes),
    ]
    assert sorted(places) == list(range(len(table.nodes)))
    assert plan.cpu_nodes == sum(plan.cpu_operators.values())
    assert plan.accelerator_macs + plan.cpu_macs == sum(op == "Conv" for op, _ in steps) * 16 * 16 * 9 * 64
    for partition in plan.partitions:
        assert any(table.nodes[index].op in ("Conv", "AveragePool") for index in partition.nodes)
        assert partition.bytes_in > 0
        assert partition.bytes_out > 0
        left = set()  # values that a path reaches which has left the partition
        for index, node in enumerate(table.nodes):
            outside = index not in partition.nodes
            assert outside or left.isdisjoint(node.inputs)
            inside = any(table.nodes[other].outputs[0] in node.inputs for other in partition.nodes)
            if outside and (inside or not left.isdisjoint(node.inputs)):
                left.update(node.outputs)


def test_a_symbolic_dimension_has_no_bytes(graph):
    made = graph()
    x = made.quantize(made.input("x", "batch", 16, 8, 8))
    with pytest.raises(KeyError, match="batch"):
        plan_placement(made.table(made.quantize(made.conv(x, "conv"))), KV260)


def test_one_run_at_the_peak_rate():
    # 2 operations a multiply-accumulate: 614.4e9 of them a second at 1.2288 TOPS.
    assert estimate_run_s(614_400_000, KV260) == pytest.approx(1e-3)
    assert estimate_run_s(1, dataclasses.replace(KV260, peak_tops=None)) is None
