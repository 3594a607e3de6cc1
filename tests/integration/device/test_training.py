import dataclasses
import math

import numpy as np
import pytest

from fieldtune.adapters.directory import read_adapter, write_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.errors import AdapterMismatch, InvalidData, TrainingDiverged
from fieldtune.training import RunDiverged, TrainConfig, train_adapter

CONFIG = TrainConfig(epochs=2, batch_size=4, gradient_accumulation=1, learning_rate=5e-3)


def _theta(report, bundle):
    from fieldtune.adapters.arrays import to_theta

    return to_theta(report.adapter, bundle.manifest)


@pytest.fixture
def train(opened, profile):
    """The function that trains a bundle, by name, with CONFIG and changes to it."""

    def run(name, examples, *, evaluation=None, start=None, progress=lambda _: None, **changes):
        config = dataclasses.replace(CONFIG, **changes)
        return train_adapter(
            opened(name), examples, config, profile, evaluation=evaluation, start=start, progress=progress
        )

    return run


def test_training_learns_and_reports_before_and_after(train, encoded, reviews):
    held_out = encoded("tiny-classifier", reviews(40, seed=1))
    report = train("tiny-classifier", encoded("tiny-classifier", reviews(120)), evaluation=held_out, epochs=6)
    assert report.stopped == "completed"
    assert [record.step for record in report.evaluations] == [0, 30, 60, 90, 120, 150, 180]
    assert [record.epoch for record in report.evaluations] == [0, 1, 2, 3, 4, 5, 6]
    assert report.before.figure("majority_accuracy") == 0.5
    assert report.after.figure("accuracy") > 0.9
    assert report.after.loss < 0.6 * report.before.loss
    assert len(report.steps) == report.planned_steps == report.kept_step == 180
    assert report.steps[-1].learning_rate == pytest.approx(5e-3 / 169)
    assert report.tokens == 6 * int(encoded("tiny-classifier", reviews(120)).lengths.sum())
    assert report.provider.provider == "CPUExecutionProvider"
    assert "cpu-generic" in report.provider.reason


def test_a_language_model_learns_and_reports_tokens(train, encoded, dialogues):
    rows = dialogues(18)
    report = train("tiny-lm", encoded("tiny-lm", rows), evaluation=encoded("tiny-lm", rows[:6]), epochs=20)
    assert report.after.loss < 0.6 * report.before.loss
    assert report.after.figure("perplexity") == pytest.approx(math.exp(report.after.loss))
    assert report.after.figure("accuracy") is report.after.figure("majority_accuracy") is None
    assert report.after.figure("token_accuracy") > report.before.figure("token_accuracy")
    # "fix the cable." and a stop token, one token a byte.
    assert report.after.labels == sum(len(row["completion"]) + 1 for row in rows[:6])


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_the_same_seed_gives_the_same_run_bit_for_bit(name, train, opened, encoded, reviews, dialogues):
    rows = reviews(30) if name == "tiny-classifier" else dialogues(12)
    first, second = (train(name, encoded(name, rows)) for _ in range(2))
    assert first.steps == second.steps
    assert _theta(first, opened(name)).tobytes() == _theta(second, opened(name)).tobytes()
    other = train(name, encoded(name, rows), seed=1)
    assert [step.loss for step in other.steps] != [step.loss for step in first.steps]


@pytest.mark.parametrize("name", ["tiny-classifier", "tiny-lm"])
def test_four_unequal_microbatches_equal_one_batch(name, opened, profile, encoded, reviews, dialogues):
    from fieldtune.adapters.arrays import to_theta
    from fieldtune.data.batches import batch_of
    from fieldtune.runtime.providers import choose_provider
    from fieldtune.training.backends.optimizers import SGDConfig
    from fieldtune.training.backends.portable import PortableBackend

    bundle = opened(name)
    manifest = bundle.manifest
    chosen = encoded(name, (reviews if manifest.task.labels else dialogues)(13))
    theta = to_theta(read_adapter(bundle.adapter_path), manifest)
    # B is zero at the start, and with it every gradient of A.
    theta = theta + np.random.default_rng(0).normal(0, 0.05, theta.shape).astype(np.float32)
    choice = choose_provider(profile, ["CPUExecutionProvider"])
    sgd = SGDConfig(momentum=0.0, weight_decay=0.0)
    found = {}
    for sizes in ([13], [1, 3, 4, 5]):
        backend = PortableBackend(bundle, choice, theta, sgd, max_grad_norm=0.0)
        loss, weight = 0.0, 0.0
        for indices in np.split(np.arange(13), np.cumsum(sizes)[:-1]):
            inputs = manifest.graphs["gradient"].inputs
            sums = backend.accumulate(batch_of(chosen.examples, indices, inputs), chosen.weight(indices))
            loss, weight = loss + sums.loss, weight + sums.weight
        norm = backend.update(1.0)
        # With a rate of 1 the step is the mean gradient.
        found[len(sizes)] = (loss / weight, norm, theta.astype(np.float64) - backend.theta())
    (loss, norm, gradient), (loss4, norm4, gradient4) = found[1], found[4]
    assert loss4 == pytest.approx(loss, rel=1e-6)
    assert norm4 == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(gradient4, gradient, rtol=0, atol=1e-6 * np.abs(theta).max())


def test_accumulation_settings_group_microbatches(train, encoded, reviews):
    examples = encoded("tiny-classifier", reviews(13))
    whole = train("tiny-classifier", examples, batch_size=13, epochs=1)
    parts = train("tiny-classifier", examples, batch_size=4, gradient_accumulation=4, epochs=1)
    assert len(whole.steps) == len(parts.steps) == 1
    assert parts.steps[0].loss == pytest.approx(whole.steps[0].loss, rel=1e-6)
    assert parts.steps[0].gradient_norm == pytest.approx(whole.steps[0].gradient_norm, rel=1e-6)
    assert parts.steps[0].labels == 13


def test_a_static_graph_is_filled_with_rows_that_count_nothing(train, opened, encoded, reviews):
    rows = reviews(10)
    dynamic, static = (
        train(name, encoded(name, rows, max_length=16), batch_size=3)
        for name in ("tiny-classifier", "static-classifier")
    )
    assert opened("static-classifier").manifest.graphs["gradient"].inputs[0].shape == (4, 16)
    assert [step.labels for step in static.steps] == [step.labels for step in dynamic.steps]
    assert sorted({step.labels for step in static.steps}) == [1, 3]
    np.testing.assert_allclose([step.loss for step in static.steps], [step.loss for step in dynamic.steps], rtol=1e-4)


def test_a_static_graph_sets_the_sizes_and_takes_no_more(train, encoded, reviews):
    report = train("static-classifier", encoded("static-classifier", reviews(9)), batch_size=None, max_steps=1)
    assert (report.config.batch_size, report.config.max_length) == (4, 16)
    with pytest.raises(ValueError, match="batch_size is 5; the bundle's graphs are static and take at most 4"):
        train("static-classifier", encoded("static-classifier", reviews(9)), batch_size=5)


def test_microbatches_and_steps_without_labels_are_skipped(train, encoded, reviews):
    rows = reviews(8)
    bare = [{**row, "label": None} for row in rows[2:]]
    examples = encoded("tiny-classifier", rows[:2] + bare)
    report = train("tiny-classifier", examples, batch_size=1, gradient_accumulation=2, epochs=3)
    assert report.skipped_microbatches == 6 * 3
    assert len(report.steps) + report.skipped_steps == report.planned_steps == 4 * 3
    assert sum(step.labels for step in report.steps) == 2 * 3
    assert report.skipped_steps >= 2 * 3
    assert all(math.isfinite(step.loss) for step in report.steps)


def test_nothing_to_learn_from_is_an_error(train, encoded, reviews):
    bare = [{**row, "label": None} for row in reviews(3)]
    with pytest.raises(InvalidData, match=r"none of the 3 example\(s\) has a label"):
        train("tiny-classifier", encoded("tiny-classifier", bare))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_optimizer_and_schedule_lowers_the_loss(schedule, optimizer, train, encoded, reviews):
    rate = 5e-3 if optimizer == "adamw" else 1e-2
    examples = encoded("tiny-classifier", reviews(40))
    report = train(
        "tiny-classifier", examples, evaluation=examples, optimizer=optimizer, schedule=schedule, learning_rate=rate
    )
    assert report.after.loss < 0.95 * report.before.loss
    rates = [step.learning_rate for step in report.steps]
    assert rates[0] == 0.0
    assert max(rates) == pytest.approx(rate)
    assert (rates[-1] < rate / 5) == (schedule != "constant")


def test_a_loss_that_is_no_number_keeps_the_last_good_adapter(train, opened, encoded, reviews, tmp_path):
    examples = encoded("tiny-classifier", reviews(40))
    with pytest.raises(TrainingDiverged, match="is nan in step 3; the adapter is kept as it was after step") as caught:
        train("tiny-classifier", examples, learning_rate=1e20)
    report = caught.value.report
    assert report.stopped == "diverged"
    assert report.kept_step == 1
    assert len(report.steps) == 2
    write_adapter(report.adapter, tmp_path / "saved")
    good = train("tiny-classifier", examples, start=read_adapter(tmp_path / "saved"), max_steps=1)
    assert math.isfinite(good.steps[0].loss)
    np.testing.assert_array_equal(
        _theta(report, opened("tiny-classifier")),
        _theta(train("tiny-classifier", examples, max_steps=1), opened("tiny-classifier")),
    )


def test_divergence_says_where_the_held_out_loss_was_lowest(train, encoded, reviews):
    examples = encoded("tiny-classifier", reviews(40))
    # The first step of the warm-up changes nothing, so that the losses after steps 0 and 1 are equal.
    settings = {"evaluation": examples, "evaluate_every": 1, "learning_rate": 1e20, "max_steps": 20, "epochs": 3}
    lowest = "as it was after step 1, though after step 0 its held-out loss was lowest"
    with pytest.raises(RunDiverged, match=f"the held-out examples is nan after step 2.*{lowest}") as caught:
        train("tiny-classifier", examples, **settings)
    assert caught.value.report.kept_step == 1
    with pytest.raises(RunDiverged, match="as it was after step 0; train again") as caught:
        train("tiny-classifier", examples, keep="best", **settings)
    assert caught.value.report.kept_step == 0


def test_a_start_that_is_no_number_is_refused(train, opened, encoded, reviews):
    start = read_adapter(opened("tiny-classifier").adapter_path)
    key = next(iter(start.tensors.tensors))
    values = start.tensors.tensors[key].float32()

    def poisoned(value):
        values.flat[0] = value
        tensors = {**start.tensors.tensors, key: StoredTensor.from_float32(values, "F32")}
        return dataclasses.replace(start, tensors=dataclasses.replace(start.tensors, tensors=tensors))

    examples = encoded("tiny-classifier", reviews(8))
    with pytest.raises(AdapterMismatch, match=rf"1 tensor\(s\)\n  - {key}: holds a value that is not a finite number"):
        train("tiny-classifier", examples, start=poisoned(np.nan))


def test_the_best_adapter_can_be_kept(train, opened, encoded, reviews):
    examples, held_out = encoded("tiny-classifier", reviews(24)), encoded("tiny-classifier", reviews(24, seed=1))
    settings = {"evaluation": held_out, "epochs": 4, "evaluate_every": 3, "learning_rate": 5e-2}
    best, last = (train("tiny-classifier", examples, keep=keep, **settings) for keep in ("best", "last"))
    assert best.steps == last.steps
    losses = {record.step: record.evaluation.loss for record in best.evaluations}
    assert sorted(losses) == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert best.kept_step == min(losses, key=losses.__getitem__)
    assert best.after.loss == min(losses.values())
    assert last.kept_step == 24
    assert last.after.loss == losses[24]
    with pytest.raises(ValueError, match="keep is 'best', which needs held-out examples"):
        train("tiny-classifier", examples, keep="best")


def test_training_continues_an_adapter(train, opened, encoded, reviews, tmp_path):
    examples = encoded("tiny-classifier", reviews(40))
    first = train("tiny-classifier", examples, evaluation=examples)
    write_adapter(first.adapter, tmp_path / "first")
    second = train("tiny-classifier", examples, evaluation=examples, start=read_adapter(tmp_path / "first"))
    assert second.before.loss == pytest.approx(first.after.loss, rel=1e-6)
    assert second.after.loss < first.after.loss


def test_training_does_not_continue_another_rank(train, opened, encoded, reviews):
    start = read_adapter(opened("tiny-classifier").adapter_path)
    halved = {}
    for key, stored in start.tensors.tensors.items():
        values = stored.float32()
        values = values[:2] if "lora_A" in key else values[:, :2] if "lora_B" in key else values
        halved[key] = StoredTensor.from_float32(np.ascontiguousarray(values), "F32")
    start = dataclasses.replace(
        start, config={**start.config, "r": 2}, tensors=dataclasses.replace(start.tensors, tensors=halved)
    )
    with pytest.raises(AdapterMismatch, match="training continues only at the bundle's own rank, 4"):
        train("tiny-classifier", encoded("tiny-classifier", reviews(4)), start=start)


def test_an_interrupt_keeps_the_work_so_far(train, opened, encoded, reviews):
    examples = encoded("tiny-classifier", reviews(24))

    def stop_at_4(event):
        if getattr(event, "step", 0) == 4:
            raise KeyboardInterrupt

    report = train("tiny-classifier", examples, progress=stop_at_4)
    assert report.stopped == "interrupted"
    assert report.kept_step == len(report.steps) == 4
    assert report.planned_steps == 12
    four = train("tiny-classifier", examples, schedule="constant", max_steps=4, warmup_steps=1)
    same = train("tiny-classifier", examples, schedule="constant", warmup_steps=1, progress=stop_at_4)
    bundle = opened("tiny-classifier")
    np.testing.assert_array_equal(_theta(same, bundle), _theta(four, bundle))


def test_what_an_adapter_is_comes_along(train, opened, encoded, reviews):
    report = train("tiny-classifier", encoded("tiny-classifier", reviews(8)), max_steps=2)
    card, manifest = report.adapter.card, opened("tiny-classifier").manifest
    assert (card.base_sha256, card.task, card.labels) == (
        manifest.base.sha256,
        "text-classification",
        ("negative", "positive"),
    )
    assert card.training["steps"] == 2
    assert card.training["learning_rate"] == 5e-3
    assert report.adapter.config["inference_mode"] is True
