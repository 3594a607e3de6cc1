import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from builders import graph_spec
from fieldtune.errors import FieldtuneError, InvalidBundle, ProviderUnavailable
from fieldtune.runtime.providers import ProviderChoice, SessionSettings
from fieldtune.runtime.session import check_runtime, open_session, run_session

pytest.importorskip("onnxruntime")

CHOICE = ProviderChoice(
    provider="CPUExecutionProvider",
    requested="CPUExecutionProvider",
    options={},
    session_settings=SessionSettings(intra_op_threads=1),
    reason="test",
)
SETTINGS = [
    SessionSettings(
        intra_op_threads=threads, prepacking=on, arena=on, memory_pattern=on, graph_optimization=optimization
    )
    for threads, on, optimization in [(0, True, "all"), (1, False, "extended"), (2, False, "basic"), (1, True, "off")]
]


def _save(path, nodes, inputs, outputs, initializers=(), ir_version=8):
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto
    kinds = {"float": kind.FLOAT, "int": kind.INT64}
    infos = [
        [make.make_tensor_value_info(name, kinds[dtype], shape) for name, dtype, shape in tensors]
        for tensors in (inputs, outputs)
    ]
    graph = make.make_graph([make.make_node(*node) for node in nodes], path.stem, *infos, list(initializers))
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=ir_version)
    path.write_bytes(model.SerializeToString())
    return path


def _scaled_product(path, **options):
    """y = (x @ w) · s with w = [[0, 1], [2, 3], [4, 5]]."""
    onnx = pytest.importorskip("onnx")
    weight = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    nodes = [("MatMul", ["x", "w"], ["p"]), ("Mul", ["p", "s"], ["y"])]
    inputs = [("x", "float", ["n", 3]), ("s", "float", [])]
    return _save(path, nodes, inputs, [("y", "float", ["n", 2])], [weight], **options)


def _filled(path):
    """y = zeros of the length that is fed."""
    return _save(path, [("ConstantOfShape", ["length"], ["y"])], [("length", "int", [1])], [("y", "float", ["n"])])


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_graph_runs_with_every_setting_and_takes_scalars(tmp_path, settings):
    session = open_session(_scaled_product(tmp_path / "g.onnx"), dataclasses.replace(CHOICE, session_settings=settings))
    (found,) = run_session(session, ["y"], {"x": np.ones((2, 3), np.float32), "s": np.float32(0.5)})
    np.testing.assert_array_equal(found, [[3.0, 4.5], [3.0, 4.5]])
    options = session.get_session_options()
    assert options.intra_op_num_threads == settings.intra_op_threads
    assert options.enable_cpu_mem_arena == settings.arena
    assert options.enable_mem_pattern == settings.memory_pattern
    assert options.get_session_config_entry("session.disable_prepacking") == ("0" if settings.prepacking else "1")


def test_sessions_share_an_arena_that_grows_as_requested(tmp_path):
    settings = SessionSettings(intra_op_threads=1, arena_extend="as-requested")
    choice = dataclasses.replace(CHOICE, session_settings=settings)
    for name in ("one", "two"):  # an allocator can be registered once in a process
        session = open_session(_scaled_product(tmp_path / f"{name}.onnx"), choice)
        assert session.get_session_options().get_session_config_entry("session.use_env_allocators") == "1"
        (found,) = run_session(session, ["y"], {"x": np.ones((2, 3), np.float32), "s": np.float32(0.5)})
        np.testing.assert_array_equal(found, [[3.0, 4.5], [3.0, 4.5]])


def test_without_an_arena_none_is_shared(tmp_path):
    settings = SessionSettings(intra_op_threads=1, arena=False, arena_extend="as-requested")
    session = open_session(_scaled_product(tmp_path / "g.onnx"), dataclasses.replace(CHOICE, session_settings=settings))
    with pytest.raises(Exception, match="use_env_allocators"):
        session.get_session_options().get_session_config_entry("session.use_env_allocators")


def _two_sides(path):
    """y = relu(-s · 2), z = tanh(x): in the file z's node comes last, and needs nothing of the others."""
    nodes = [("Neg", ["s"], ["a"]), ("Add", ["a", "a"], ["b"]), ("Relu", ["b"], ["y"]), ("Tanh", ["x"], ["z"])]
    tensors = [("x", "float", ["n"]), ("s", "float", ["n"])]
    return _save(path, nodes, tensors, [("y", "float", ["n"]), ("z", "float", ["n"])])


@pytest.mark.parametrize("in_order", [False, True])
def test_nodes_run_in_the_order_of_the_file_where_that_is_asked_for(tmp_path, in_order):
    settings = SessionSettings(intra_op_threads=1, graph_optimization="off")
    choice = dataclasses.replace(CHOICE, session_settings=settings)
    path = _two_sides(tmp_path / "g.onnx")
    session = open_session(path, choice, in_order=in_order, profile_prefix=tmp_path / "run")
    order = type(session.get_session_options().execution_order)
    expected = order.PRIORITY_BASED if in_order else order.DEFAULT
    assert session.get_session_options().execution_order == expected
    ones = np.ones(2, np.float32)
    y, z = run_session(session, ["y", "z"], {"x": ones, "s": -ones})
    np.testing.assert_array_equal(y, [2, 2])
    np.testing.assert_allclose(z, np.tanh(ones), rtol=1e-6)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    assert sorted(ran) == ["Add", "Neg", "Relu", "Tanh"]
    assert (ran == ["Neg", "Add", "Relu", "Tanh"]) == in_order, ran


def test_a_provider_that_is_not_there_is_an_error_and_not_the_cpu(tmp_path):
    choice = dataclasses.replace(CHOICE, provider="VitisAIExecutionProvider")
    with pytest.raises(ProviderUnavailable, match=r"VitisAIExecutionProvider: not in this ONNX Runtime; it has .*CPU"):
        open_session(_scaled_product(tmp_path / "g.onnx"), choice)


def test_a_missing_file(tmp_path):
    with pytest.raises(InvalidBundle, match=r"none\.onnx: ONNX Runtime .* cannot load it"):
        open_session(tmp_path / "none.onnx", CHOICE)


def test_a_truncated_file(tmp_path):
    path = _scaled_product(tmp_path / "g.onnx")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InvalidBundle, match=r"g\.onnx: ONNX Runtime .* cannot load it: .*[Pp]rotobuf"):
        open_session(path, CHOICE)


def test_a_graph_for_a_later_runtime(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = _scaled_product(tmp_path / "g.onnx")
    model = onnx.load(path)
    model.ir_version = 99
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidBundle, match=r"IR version.*copy or build the bundle again"):
        open_session(path, CHOICE)


def test_a_graph_that_needs_a_later_runtime_is_refused_before_it_is_opened(tmp_path):
    needs = graph_spec(min_ort="99.2")
    with pytest.raises(
        ProviderUnavailable, match=r"g\.onnx: needs ONNX Runtime 99\.2 or later \(opset 18, IR version 8\)"
    ):
        check_runtime(needs, tmp_path / "g.onnx")
    check_runtime(dataclasses.replace(needs, min_ort="1.16.3"), tmp_path / "g.onnx")


def test_an_operator_that_the_runtime_does_not_have(tmp_path):
    path = _save(tmp_path / "g.onnx", [("Nonsense", ["x"], ["y"])], [("x", "float", [1])], [("y", "float", [1])])
    with pytest.raises(InvalidBundle, match="Nonsense"):
        open_session(path, CHOICE)


@pytest.mark.parametrize(
    "x", [np.ones((2, 4), np.float32), np.ones((2, 3), np.float64)], ids=["another shape", "another dtype"]
)
def test_a_feed_that_does_not_fit_names_graph_and_shapes(tmp_path, x):
    session = open_session(_scaled_product(tmp_path / "gradient.onnx"), CHOICE)
    with pytest.raises(FieldtuneError) as caught:
        run_session(session, ["y"], {"x": x, "s": np.float32(1)})
    assert f"the graph 'gradient', fed with x {x.dtype} {x.shape}, s float32 ()" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_feed_that_is_left_out_is_the_programmers_mistake(tmp_path):
    session = open_session(_scaled_product(tmp_path / "g.onnx"), CHOICE)
    with pytest.raises(ValueError, match="missing from input feed"):
        run_session(session, ["y"], {"x": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize("arena", [True, False])
def test_memory_that_runs_out_brings_advice(tmp_path, arena):
    settings = SessionSettings(intra_op_threads=1, arena=arena)
    session = open_session(_filled(tmp_path / "g.onnx"), dataclasses.replace(CHOICE, session_settings=settings))
    # 4 PiB: more than any machine's address space can give.
    with pytest.raises(FieldtuneError, match=r"not enough memory to run the graph 'g'.*smaller batch size"):
        run_session(session, ["y"], {"length": np.array([1 << 50])})
    (found,) = run_session(session, ["y"], {"length": np.array([3])})
    np.testing.assert_array_equal(found, np.zeros(3, np.float32))


def test_runs_repeat_bit_for_bit(tmp_path):
    session = open_session(_scaled_product(tmp_path / "g.onnx"), CHOICE)
    feeds = {"x": np.random.default_rng(3).standard_normal((50, 3)).astype(np.float32), "s": np.float32(1.7)}
    (first,), (second,) = run_session(session, ["y"], feeds), run_session(session, ["y"], feeds)
    np.testing.assert_array_equal(first, second)
