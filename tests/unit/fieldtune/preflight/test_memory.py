import dataclasses

import pytest

from fieldtune.hardware import load_profile
from fieldtune.preflight.memory import PROCESS_BYTES, predict_memory
from fieldtune.preflight.workload import workload_of

PI, KV260 = load_profile("raspberry-pi-5"), load_profile("kv260")
WEIGHT = 192 * 5208 * 4


def with_runtime(**changes):
    return dataclasses.replace(PI, runtime=dataclasses.replace(PI.runtime, **changes))


def predict(bundle, profile, use, batch=100, samples=0):
    return predict_memory(workload_of(bundle, profile, use, batch=batch, sequence=0, samples=samples))


def test_each_setting_of_the_runtime_counts(whole):
    """100 rows of 5208 floats come out of the graph; nothing else is held but the weight."""
    bundle, out = whole(), 100 * 5208 * 4
    plain = predict(bundle, PI, "evaluation")
    assert (plain.mapped_bytes, plain.copied_bytes) == (0, WEIGHT)
    lean = predict(
        bundle, with_runtime(prepacking=False, memory_pattern=False, arena_extend="as-requested"), "evaluation"
    )
    assert (lean.mapped_bytes, lean.copied_bytes, lean.pattern_bytes) == (WEIGHT, 0, 0)
    assert lean.activation_bytes == -(-out // 256) * 256
    assert lean.process_bytes == PROCESS_BYTES
    assert lean.unknown_tensors == 0
    parts = (lean.process_bytes, lean.data_bytes, lean.session_bytes, lean.mapped_bytes, lean.activation_bytes)
    assert lean.total_bytes == sum(parts) + lean.adapter_bytes


def test_memory_grows_with_the_batch_and_with_the_examples(whole):
    bundle = whole()
    small, large = (predict(bundle, PI, "evaluation", batch) for batch in (10, 20))
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.01)
    more = predict(bundle, PI, "evaluation", 10, samples=1000)
    assert more.data_bytes - small.data_bytes == 1000 * (8 * 8 * 3 + 500)


def test_training_holds_theta_gradient_and_optimizer(whole):
    bundle = whole(theta=1000)
    assert predict(bundle, PI, "training").adapter_bytes == 9 * 4000
    assert predict(bundle, PI, "inference").adapter_bytes == 2 * 4000


def test_sessions_share_an_arena_that_grows_as_requested(whole):
    bundle = whole()
    shared = with_runtime(memory_pattern=False, arena_extend="as-requested")
    once = predict(bundle, shared, "training").activation_bytes
    assert predict(bundle, shared, "training with evaluation").activation_bytes == once
    assert predict(bundle, with_runtime(memory_pattern=False), "training with evaluation").activation_bytes == 2 * once


def test_an_accelerator_without_memory_of_its_own_takes_the_main_memory(split):
    bundle = split(KV260)
    found = predict(bundle, KV260, "training")
    assert found.graphs == ("prefix_kv260", "suffix_gradient")
    assert found.accelerator_bytes > 16 * 3 * 9 + 16 * 16 * 9  # at least the weights, a byte each
    own = dataclasses.replace(KV260, accelerator=dataclasses.replace(KV260.accelerator, memory_bytes=10**9))
    assert predict(bundle, own, "training").accelerator_bytes == 0


def test_kept_activations_count_up_to_their_limit(split):
    bundle = split(KV260)
    each = 16 * 8 * 8 * 4 + 52  # float32, and the entry of the index
    image = 8 * 8 * 3 + 500
    none, some, many = (predict(bundle, PI, "training", samples=count).data_bytes for count in (0, 1000, 10**6))
    assert some - none == 1000 * (each + image)
    assert many - none == (256 << 20) + 10**6 * image
    served = [predict(bundle, PI, "inference", samples=count).data_bytes for count in (0, 1000)]
    assert served[1] - served[0] == 1000 * image
