"""A prefix compiled for an emulated accelerator: once, held to what its profile demands, or refused with a reason."""

import numpy as np
import pytest

from builders import (
    CPU,
    altered,
    graph_spec,
    image_spec,
    manifest,
    prefix_table,
    table_text,
    target_spec,
    tensor_spec,
    write_bundle,
)
from fieldtune.bundle.manifest import SplitSpec
from fieldtune.compilation.compiling import compile_prefix
from fieldtune.compilation.kept.store import CompiledStore
from fieldtune.errors import CompileError, PlacementRefused
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider

pytest.importorskip("onnxruntime")

KV260 = load_profile("kv260")
GRAPH = "prefix (float[1,3,8,8] pixel_values) => (float[1,16,8,8] b) { b = Conv(pixel_values, w) }"


@pytest.fixture
def store(tmp_path):
    return CompiledStore(tmp_path / "compiled")


@pytest.fixture
def target(tmp_path, onnx_bytes):
    """The function that writes a bundle with a prefix for the KV260, with changes of its convolution."""

    def make(**conv):
        spec = graph_spec(
            "prefix_kv260",
            inputs=(tensor_spec("pixel_values", 1, 3, 8, 8),),
            outputs=(tensor_spec("b", 1, 16, 8, 8),),
        )
        described = manifest(
            image=image_spec(),
            graphs={"prefix_kv260": spec},
            split=SplitSpec(boundary=(tensor_spec("b", "batch", 16, 8, 8),)),
            targets={"kv260": target_spec(KV260)},
        )
        contents = {
            spec.path: onnx_bytes(GRAPH, w=np.ones((16, 3, 1, 1), np.float32)),
            spec.nodes: table_text(prefix_table(KV260, conv=conv)).encode(),
        }
        return write_bundle(tmp_path / "bundle", described, contents)

    return make


def emulated(profile=KV260):
    return choose_provider(profile, [CPU], None, "emulate")


def test_it_is_compiled_once_and_what_is_kept_is_held_to_the_profile(target, store):
    bundle, told = target(), []
    compiled = compile_prefix(bundle, KV260, emulated(), store=store, progress=told.append)
    assert compiled.fresh
    assert compiled.folder == store.folder(compiled.key)
    assert (compiled.report.partitions, compiled.report.offload, compiled.report.emulated) == (1, 1.0, True)
    assert compiled.report.cache_identity == compiled.key.identity
    assert told == [
        "checking prefix_kv260 against the rules of DPUCZDX8G_ISA1_B4096",
        f"opening prefix_kv260 with {CPU}, at most {KV260.execution.compile_timeout_s} s",
    ]
    again = compile_prefix(bundle, KV260, emulated(), store=store, progress=told.append)
    assert (again.fresh, again.report, again.seconds) == (False, compiled.report, compiled.seconds)
    assert len(told) == 2
    # An emulation's key knows nothing of what a profile demands: it is held to that again.
    demanding = altered(KV260, execution={"max_partitions": 0})
    with pytest.raises(PlacementRefused, match="cut into 1 pieces, and the profile allows 0"):
        compile_prefix(bundle, demanding, emulated(demanding), store=store)


def test_what_the_accelerator_would_refuse_is_not_kept(target, store):
    with pytest.raises(PlacementRefused, match=r"^prefix_kv260: DPUCZDX8G_ISA1_B4096 would refuse it by kernel:"):
        compile_prefix(target(kernel=(17, 3)), KV260, emulated(), store=store)
    assert store.list() == []


def test_where_there_is_nothing_to_compile_it_says_why(target, store):
    generic = load_profile("cpu-generic")
    with pytest.raises(CompileError, match="the profile cpu-generic has no accelerator to compile for"):
        compile_prefix(target(), generic, choose_provider(generic, [CPU]), store=store)
    with pytest.raises(CompileError, match="there is nothing to compile, the CPU runs the prefix as it is: "):
        compile_prefix(target(), KV260, choose_provider(KV260, [CPU], None, "cpu"), store=store)
    assert store.list() == []
