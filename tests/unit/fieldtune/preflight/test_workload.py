import pytest

from fieldtune.data.limits import CPU_BATCH
from fieldtune.errors import InvalidBundle
from fieldtune.hardware import load_profile
from fieldtune.preflight.workload import uses_of, workload_of

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")


def opened(bundle, profile, use, batch=6):
    work = workload_of(bundle, profile, use, batch=batch, sequence=0)
    return [(part.graph, part.on_accelerator, part.batch) for part in work.parts]


def test_whole_graphs_run_on_the_cpu(whole):
    bundle = whole()
    assert uses_of(bundle) == ("training", "training with evaluation", "evaluation", "inference")
    assert opened(bundle, PI, "training with evaluation") == [("eval", False, 6), ("gradient", False, 6)]
    assert opened(bundle, PI, "inference") == [("infer", False, 6)]


def test_a_split_bundle_trains_behind_its_float_prefix_and_serves_whole_on_the_cpu(split):
    """Whatever the batch, the prefix is run on as many samples as Prefix puts into a run."""
    bundle = split(KV260)
    for batch in (1, 32):
        found = opened(bundle, PI, "training", batch)
        assert found == [("prefix", False, CPU_BATCH), ("suffix_gradient", False, batch)]
    assert opened(bundle, PI, "inference") == [("infer", False, 6)]


def test_an_accelerator_runs_its_own_prefix_with_its_own_batch(split):
    bundle = split(KV260)
    assert opened(bundle, KV260, "evaluation") == [("prefix_kv260", True, 1), ("suffix_eval", False, 6)]
    assert opened(bundle, KV260, "inference") == [("prefix_kv260", True, 1), ("suffix_infer", False, 6)]


def test_a_bundle_without_the_accelerators_prefix(whole):
    with pytest.raises(InvalidBundle, match=r"no prefix for the accelerator of the profile kv260.*--target kv260"):
        workload_of(whole(), KV260, "training", batch=1, sequence=0)


def test_what_a_bundle_has_no_graph_for(graph, bundle):
    made = graph()
    out = made.add("Neg", [made.input("pixel_values", "batch", 3, 8, 8)], ("batch", 3, 8, 8))
    assert uses_of(bundle(made.table(out, name="infer"))) == ("inference",)
