import dataclasses
import json

import pytest

from builders import CPU, VITIS, altered, target_spec
from fieldtune.compilation.kept.key import CompileKey, compile_key, external_files, model_digest
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import load_profile
from fieldtune.runtime.providers import choose_provider

pytest.importorskip("onnxruntime")


def _location(name):
    """A StringStringEntryProto of ("location", name), as protobuf writes it."""
    encoded = name.encode()
    length = len(encoded)
    size = bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
    return b"\x0a\x08location\x12" + size + encoded


def _key(bundle, profile, available=(VITIS, CPU), on_missing=None):
    choice = choose_provider(profile, available, None, on_missing)
    return compile_key(bundle, target_spec(profile, graph="prefix"), profile, choice)


def test_equal_keys_have_equal_identities_and_every_part_counts(key):
    assert dataclasses.replace(key).identity == key.identity
    assert len(key.identity) == 64
    changed = [
        dataclasses.replace(
            key, **{field.name: True if field.name == "emulated" else {"a": "b"} if field.name == "options" else "x"}
        )
        for field in dataclasses.fields(CompileKey)
    ]
    assert len({one.identity for one in (key, *changed)}) == len(changed) + 1


def test_differences_name_the_part_and_both_values(key):
    current = dataclasses.replace(
        key,
        model="0" * 64,
        driver="xrt 2.16.0",
        provider_version="",
        options={"config_file": "1" * 64, "encryption_key": "2" * 64},
        emulated=True,
    )
    assert key.differences(key) == []
    assert key.differences(current) == [
        f"model (the graph and its weights): stored {key.model[:12]}…, now 000000000000…",
        "driver: stored xrt 2.15.0, zocl 2.15.0, now xrt 2.16.0",
        "provider version: stored onnxruntime-vitisai 1.16.0, voe 0.1.0, now none",
        f"option config_file: stored {key.options['config_file'][:12]}…, now 111111111111…",
        "option encryption_key: stored none, now 222222222222…",
        "emulated: stored no, now yes",
    ]


def test_weights_in_other_files_are_found_in_the_graphs_bytes(tmp_path):
    path = tmp_path / "g.onnx"
    long = "a" * 200 + ".bin"
    path.write_bytes(b"\x08\x08" + _location("weights.safetensors") * 2 + b"name" + _location(long) + b"\x12\x00")
    assert external_files(path) == (long, "weights.safetensors")
    path.write_bytes(b"no location here")
    assert external_files(path) == ()


def test_the_models_digest_follows_graph_and_weights_and_nothing_else(bundle):
    graph = b"graph" + _location("weights.safetensors")
    base = model_digest(bundle({"prefix": graph}, weights_safetensors=b"w", other_bin=b"o"), "prefix")
    assert model_digest(bundle({"prefix": graph}, weights_safetensors=b"w", other_bin=b"changed"), "prefix") == base
    assert model_digest(bundle({"prefix": graph}, weights_safetensors=b"v", other_bin=b"o"), "prefix") != base
    assert model_digest(bundle({"prefix": graph + b"."}, weights_safetensors=b"w", other_bin=b"o"), "prefix") != base


def test_weights_that_are_not_the_bundles_are_refused(bundle):
    with pytest.raises(InvalidBundle, match=r"its weights lie in '\.\./w\.bin', which is not in the manifest"):
        model_digest(bundle({"prefix": _location("../w.bin")}), "prefix")


def test_the_key_of_what_is_here(bundle):
    profile, made = load_profile("vek280"), bundle({"prefix": b"graph"})
    real, emulated = _key(made, profile), _key(made, profile, (CPU,), "emulate")
    assert (real.provider, real.target, real.stack, real.emulated) == (
        VITIS,
        "DPUCV2DX8G_ISA1_C20B14",
        "vitis-ai-3.5",
        False,
    )
    assert emulated.emulated
    assert emulated.provider_version.startswith("fieldtune ")
    differing = {line.partition(":")[0] for line in real.differences(emulated)}
    assert {"emulated", "provider version"} <= differing <= {"emulated", "provider version", "driver"}


def test_all_that_the_profile_says_of_the_accelerator_counts(bundle):
    profile, made = load_profile("vek280"), bundle({"prefix": b"graph"})
    other = altered(profile, accelerator={"limits": {"shift_cut_max": 15}})
    (line,) = _key(made, profile).differences(_key(made, other))
    assert line.startswith("accelerator (what the profile says of it): stored ")
    # The profile's name and its demands decide nothing about what is compiled.
    renamed = altered(profile, name="mine", execution={"min_offload": 0.1, "compile_timeout_s": 5})
    assert _key(made, renamed) == _key(made, profile)


def test_values_of_options_and_files_that_they_name_count_and_are_not_shown(bundle, tmp_path):
    config = tmp_path / "vaip_config.json"
    config.write_text("{}")
    profile, made = load_profile("vek280"), bundle({"prefix": b"graph"})
    profile = altered(profile, execution={"options": {"config_file": str(config), "encryption_key": "s3cret"}})
    before = _key(made, profile)
    assert "s3cret" not in json.dumps(dataclasses.asdict(before))
    config.write_text('{"changed": true}')
    (line,) = before.differences(_key(made, profile))
    assert line.startswith("option config_file: ")


def test_where_compiled_models_are_kept_is_no_part_of_the_key(bundle):
    profile, made = load_profile("vek280"), bundle({"prefix": b"graph"})
    options = {**profile.execution.options, "cacheDir": "/tmp/somewhere", "cacheKey": "x"}
    assert _key(made, altered(profile, execution={"options": options})) == _key(made, profile)
