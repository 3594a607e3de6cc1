import dataclasses

import pytest

from builders import altered
from fieldtune.bundle.opening import open_tables
from fieldtune.errors import CorruptFile
from fieldtune.hardware import MemorySpec, load_profile
from fieldtune.preflight.checking import check_bundle

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")


def test_a_bundle_that_runs(whole):
    found = check_bundle(whole(), PI)
    assert found.runs
    assert (found.refusals, found.warnings) == ((), ())
    assert (found.batch, found.sequence) == (8, 0)
    assert [placement.graph for placement in found.placements] == ["gradient", "eval", "infer"]
    assert [time.use for time in found.times] == ["training", "evaluation", "inference"]
    assert found.memory_limit_bytes == 8 << 30


def test_the_tables_are_enough(whole):
    """There is no .onnx and no weights file in this bundle."""
    root = whole().root
    assert check_bundle(open_tables(root), PI).runs
    (root / "graphs" / "eval.nodes.json").write_text("{}")
    with pytest.raises(CorruptFile, match=r"eval\.nodes\.json: 2 bytes; expected"):
        open_tables(root)


def test_too_little_memory_is_refused_for_each_use(whole):
    found = check_bundle(whole(), altered(PI, memory={"total_bytes": 8 << 30, "available_for_app_bytes": 50_000_000}))
    assert [refusal.split(" with")[0] for refusal in found.refusals] == ["training", "evaluation", "inference"]
    assert "a batch of 8 would need" in found.refusals[0]
    assert "of memory, and the profile has 50 MB" in found.refusals[0]


def test_what_is_close_to_the_limit_is_a_warning(whole):
    bundle = whole()
    need = check_bundle(bundle, PI).memory[0].total_bytes
    found = check_bundle(bundle, dataclasses.replace(PI, memory=MemorySpec(total_bytes=int(1.1 * need))))
    assert found.runs
    assert found.warnings[0].startswith(f"training would need {need / 1e6:,.0f} MB of ")


def test_memory_that_the_profile_does_not_state_is_a_warning(whole):
    found = check_bundle(whole(), load_profile("cpu-generic"))
    assert found.runs
    assert found.warnings == ("the profile cpu-generic does not say how much memory there is",)


def test_a_missing_prefix_is_refused_and_tells_how_to_build_one(whole):
    found = check_bundle(whole(), KV260)
    (refusal,) = found.refusals
    assert "--target kv260 --calibration DATA" in refusal
    assert (found.placements, found.memory, found.times) == ((), (), ())
    assert found.storage.bundle_bytes > 1_000_000
    assert found.warnings[0] == "kv260 is legacy: its vendor's current software no longer targets it"


def test_rules_that_are_broken_are_refusals(split):
    found = check_bundle(split(KV260, conv={"kernel": (17, 17)}), KV260)
    assert not found.runs
    assert any(refusal.startswith("kernel: stem: ") for refusal in found.refusals)


def test_a_graph_for_a_later_runtime_is_refused(whole):
    found = check_bundle(whole(min_ort="1.20.1"), PI)
    assert found.refusals[0] == (
        "gradient: needs ONNX Runtime 1.20.1 or later; the profile raspberry-pi-5 is for 1.16.3 (ort_version)"
    )


def test_a_patch_release_more_is_no_refusal(split):
    """kv260 is for 1.16.0, and every graph says 1.16.3."""
    assert check_bundle(split(KV260), KV260).runs


def test_batches_and_examples_that_are_asked_for(split):
    found = check_bundle(split(KV260), KV260, batch_size=5, samples=100)
    assert (found.batch, found.placements[0].batch, found.memory[0].batch) == (5, 1, 5)
    assert found.storage.activation_bytes == 100 * found.storage.sample_bytes


def test_a_length_in_tokens_of_images_is_a_mistake(whole):
    with pytest.raises(ValueError, match="takes images, which have no length in tokens"):
        check_bundle(whole(), PI, max_length=16)


def test_products_of_integers_on_a_cpu_without_fast_kernels_are_a_warning(bundle, graph):
    def of_integers(name):
        made = graph()
        inputs = [made.input("x", "batch", 16, dtype="uint8"), made.constant("codes", 16, 8, dtype="int8")]
        out = made.add("MatMulIntegerToFloat", inputs, ("batch", 8), macs=("batch", 8, 16))
        return made.table(out, name=name)

    made = bundle(*(of_integers(name) for name in ("gradient", "eval", "infer")))
    told = check_bundle(made, load_profile("kr260")).warnings
    assert [line for line in told if "neither asimddp nor i8mm" in line]
    assert not [line for line in check_bundle(made, PI).warnings if "integers" in line]
