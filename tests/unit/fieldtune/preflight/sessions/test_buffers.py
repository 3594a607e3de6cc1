from fieldtune.preflight.sessions.buffers import plan_buffers
from fieldtune.preflight.sessions.runtime_graph import run_steps


def plan(made, *outputs, **sizes):
    table = made.table(*outputs)
    return plan_buffers(table, run_steps(table, "all"), sizes)


def history(found):
    return [(event.buffer, "+" if event.taken else "-") for event in found.events]


def chain(made, *operators, shape=(4, 8), **first):
    value = made.input("x", *shape)
    for number, op in enumerate(operators):
        value = made.add(op, [value], shape, name=f"n{number}")
    return value


def test_a_tensor_is_given_back_after_what_reads_it_last(graph):
    made = graph()
    out = made.add("ReduceMax", [chain(made, "Neg")], (4,), name="out")
    found = plan(made, out)
    assert history(found) == [("n0.out", "+"), ("out.out", "+"), ("n0.out", "-"), ("out.out", "-")]
    assert [event.size_bytes for event in found.events] == [128, 16, 128, 16]
    assert found.peak_bytes == 144


def test_kernels_that_do_not_write_in_place_take_turns_with_two_buffers(graph):
    """Measured with ONNX Runtime 1.16.3 and 1.31.1: a chain of Neg, Exp, Add, … holds two buffers of its size."""
    made = graph()
    out = made.add("ReduceMax", [chain(made, "Neg", "Exp", "Sqrt", "Erf")], (4,), name="out")
    assert history(plan(made, out))[:2] == [("n0.out", "+"), ("n1.out", "+")]
    assert plan(made, out).peak_bytes == 2 * 128


def test_kernels_that_write_in_place_need_one(graph):
    made = graph()
    out = made.add("ReduceMax", [chain(made, "Neg", "Relu", "Softmax", "Sigmoid", "Tanh")], (4,), name="out")
    assert plan(made, out).peak_bytes == 128 + 16


def test_in_place_needs_an_input_that_nothing_else_reads(graph):
    made = graph()
    base = chain(made, "Neg")
    relu = made.add("Relu", [base], (4, 8), name="relu")
    out = made.add("Add", [relu, base], (4, 8), name="out")
    assert plan(made, out).peak_bytes == 3 * 128


def test_the_inputs_and_weights_of_a_graph_are_never_written(graph):
    made = graph()
    relu = made.add("Relu", [made.input("x", 4, 8)], (4, 8), name="relu")
    out = made.add("ReduceMax", [relu], (4,), name="out")
    assert history(plan(made, out))[0] == ("relu.out", "+")


def test_a_view_takes_no_memory_and_keeps_its_buffer_alive(graph):
    made = graph()
    base = chain(made, "Neg")
    view = made.add("Reshape", [base, made.constant("shape", 1, dtype="int64", bytes_=8)], (32,), name="view")
    other = made.add("Exp", [view], (32,), name="exp")
    out = made.add("ReduceMax", [other], (), name="out")
    assert history(plan(made, out))[:3] == [("n0.out", "+"), ("exp.out", "+"), ("n0.out", "-")]


def test_a_buffer_that_is_taken_again_is_held_in_between(graph):
    """The planner keeps a free buffer for the next tensor of its shape, though nothing needs it for a while."""
    made = graph()
    first = chain(made, "Neg")
    small = made.add("ReduceMax", [first], (4,), name="small")
    wide = made.add("Expand", [small], (4, 8), name="wide")
    out = made.add("ReduceMax", [wide], (4,), name="out")
    assert history(plan(made, out)) == [
        ("n0.out", "+"), ("small.out", "+"), ("small.out", "-"), ("out.out", "+"), ("n0.out", "-"), ("out.out", "-"),
    ]  # fmt: skip


def test_shapes_are_compared_as_they_are_written(graph):
    made = graph()
    base = made.add("Neg", [made.input("x", "batch", 8)], ("batch", 8), name="base")
    small = made.add("ReduceMax", [base], (1,), name="small")
    wide = made.add("Expand", [small], (4, 8), name="wide")
    out = made.add("ReduceMax", [wide], (1,), name="out")
    assert plan(made, out, batch=4).peak_bytes == 128 + 4
    assert ("wide.out", "+") in history(plan(made, out, batch=4))


def test_the_outputs_of_a_graph_are_held_to_its_end(graph):
    made = graph()
    early = made.add("Neg", [made.input("x", 4, 8)], (4, 8), name="early")
    out = made.add("ReduceMax", [made.add("Exp", [early], (4, 8), name="exp")], (4,), name="out")
    found = plan(made, early, out)
    assert {event.buffer for event in found.events if not event.planned} == {"early.out", "out.out"}
    assert {buffer for buffer, _ in history(found)[-3:]} == {"exp.out", "early.out", "out.out"}


def test_tensors_of_unknown_size_are_counted_apart(graph):
    made = graph()
    out = made.add("ReduceMax", [made.add("Mystery", [made.input("x", 4)], ("?",), name="m")], (4,), name="out")
    found = plan(made, out)
    assert found.unknown_tensors == 1
    assert found.peak_bytes == 16


def test_a_product_that_unpacks_its_matrix_whole_takes_a_buffer_that_no_pattern_has_a_place_for(graph):
    made = graph()
    inputs = [chain(made, "Neg", shape=(4, 64)), made.constant("codes", 1024, dtype="uint8")]
    found = plan(made, made.add("MatMulBnb4", inputs, (4, 32), name="out", K=64, N=32))
    own = [event for event in found.events if event.buffer == "unpacked"]
    assert [(event.size_bytes, event.taken, event.planned) for event in own] == [
        (8192, True, False),
        (8192, False, False),
    ]
    assert found.peak_bytes == 4 * 64 * 4 + 4 * 32 * 4 + 8192
