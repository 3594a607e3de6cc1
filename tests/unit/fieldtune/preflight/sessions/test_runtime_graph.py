import pytest

from fieldtune.preflight.sessions.runtime_graph import run_steps


def ops(steps):
    return [step.op for step in steps]


def attention(made):
    """Return query times the transposed key, both computed."""
    q = made.add("Neg", [made.input("q", 2, 4, 8)], (2, 4, 8), name="q_neg")
    k = made.add("Neg", [made.input("k", 2, 4, 8)], (2, 4, 8), name="k_neg")
    turned = made.add("Transpose", [k], (2, 8, 4), perm=[0, 2, 1])
    return made.add("MatMul", [q, turned], (2, 4, 4))


def test_inputs_come_right_before_what_reads_them_and_later_ones_first(graph):
    """Of two inputs the one whose producer has the larger index is worked out first, as in Graph::ReverseDFSFrom."""
    made = graph()
    x = made.input("x", 4)
    first = made.add("Neg", [x], (4,), name="first")
    made.add("Abs", [x], (4,), name="unrelated")
    second = made.add("Exp", [x], (4,), name="second")
    out = made.add("Add", [first, second], (4,), name="sum")
    order = [step.outputs[0] for step in run_steps(made.table(out), "all")]
    assert order.index("second.out") < order.index("first.out") < order.index("sum.out")
    assert len(order) == 4


def test_what_depends_on_weights_alone_is_folded(graph):
    made = graph()
    weight = made.constant("w", 4, bytes_=16)
    folded = made.add("Sqrt", [made.add("Neg", [weight], (4,))], (4,))
    out = made.add("Add", [made.input("x", 4), folded], (4,))
    table = made.table(out)
    assert ops(run_steps(table, "basic")) == ["Add"]
    assert ops(run_steps(table, "off")) == ["Neg", "Sqrt", "Add"]


def test_an_initializer_that_can_be_fed_is_no_constant(graph):
    made = graph()
    made.inputs.append(made.constant("lora_A", 4, bytes_=16))
    out = made.add("Neg", ["lora_A"], (4,))
    assert ops(run_steps(made.table(out), "all")) == ["Neg"]


def normalized(made, statistics="running"):
    x = made.input("x", 1, 3, 8, 8)
    weight = made.constant("w", 16, 3, 3, 3, bytes_=1728)
    conv = made.add("Conv", [x, weight], (1, 16, 8, 8), name="conv")
    parameters = [made.constant(f"{statistics}.{name}", 16, bytes_=64) for name in ("scale", "bias", "mean", "var")]
    return conv, made.add("BatchNormalization", [conv, *parameters], (1, 16, 8, 8), name="norm")


def test_a_batch_normalization_disappears_into_its_convolution(graph):
    made = graph()
    _, out = normalized(made)
    (step,) = run_steps(made.table(out), "basic")
    assert (step.op, step.outputs, step.rewritten) == ("Conv", ("norm.out",), True)
    assert [step.rewritten for step in run_steps(made.table(out), "off")] == [False, False]


def test_a_convolution_that_something_else_reads_keeps_its_batch_normalization(graph):
    made = graph()
    conv, norm = normalized(made)
    out = made.add("Add", [conv, norm], (1, 16, 8, 8))
    assert sorted(ops(run_steps(made.table(out), "all"))) == ["Add", "BatchNormalization", "Conv"]


@pytest.mark.parametrize(("level", "fused"), [("all", True), ("extended", True), ("basic", False), ("off", False)])
def test_a_transposition_disappears_into_the_product(graph, level, fused):
    made = graph()
    table = made.table(attention(made))
    steps = run_steps(table, level)
    assert ("FusedMatMul" in ops(steps)) == fused
    assert ("Transpose" in ops(steps)) != fused
    if fused:
        assert steps[-1].reads == ("q_neg.out", "k_neg.out")


def test_a_transposition_that_something_else_reads_stays(graph):
    made = graph()
    product = attention(made)
    other = made.add("Exp", ["Transpose2.out"], (2, 8, 4))
    assert sorted(ops(run_steps(made.table(product, other), "all"))) == [
        "Exp", "FusedMatMul", "Neg", "Neg", "Transpose",
    ]  # fmt: skip


def test_another_permutation_stays(graph):
    made = graph()
    x = made.input("x", 2, 4, 8)
    turned = made.add("Transpose", [x], (4, 2, 8), perm=[1, 0, 2])
    out = made.add("MatMul", [turned, made.input("y", 4, 8, 2)], (4, 2, 2))
    assert ops(run_steps(made.table(out), "all")) == ["Transpose", "MatMul"]


def test_in_the_order_of_the_file_a_fused_product_is_the_last_and_shapes_come_first(graph):
    made = graph()
    product = attention(made)
    codes = made.constant("codes", 4, bytes_=16)
    made.inputs.append(codes)
    unpacked = made.add("Exp", [codes], (4,), name="unpack")
    size = made.add("Shape", [made.inputs[0]], (3,), dtype="int64", name="size")
    table = made.table(made.add("Mul", [product, unpacked], (2, 4, 4), name="out"), size)
    order = ops(run_steps(table, "all", in_order=True))
    assert order == ["Shape", "Neg", "Neg", "Exp", "FusedMatMul", "Mul"]
    assert ops(run_steps(table, "off", in_order=True)) == ["Shape", "Neg", "Neg", "Transpose", "MatMul", "Exp", "Mul"]
    assert ops(run_steps(table, "all"))[0] != "Shape"
