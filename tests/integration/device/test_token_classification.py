import dataclasses
import random

import numpy as np
import pytest

from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.evaluation import evaluate

CONFIG = TrainConfig(epochs=4, batch_size=8, gradient_accumulation=1, learning_rate=1e-2)
PEOPLE, THINGS = ("you", "i", "my cast", "your cast"), ("printer", "screen cable", "keyboard", "printer driver")


@pytest.fixture
def task(opened):
    from fieldtune.tasks import open_task

    return open_task(opened("tiny-tagger"))


def encoded(task, count, seed):
    """Who does what with a thing."""
    from fieldtune.tasks.tagging.texts import WordsExample

    chance, labels, examples = random.Random(seed), task.spec.labels, []
    for _ in range(count):
        words, tags = [], []
        for kind, choices in (("person", PEOPLE), ("", ("fix", "update", "check", "love")), ("thing", THINGS)):
            chosen = chance.choice(choices).split()
            words += chosen
            tags += [labels.index(f"{'I' if place else 'B'}-{kind}" if kind else "O") for place in range(len(chosen))]
        examples.append(WordsExample(words=tuple(words), tags=tuple(tags)))
    return task.encode(examples)


def test_entities_are_learned_and_found(opened, profile, task):
    from fieldtune.serving.runner import Runner

    bundle = opened("tiny-tagger")
    report = train_adapter(bundle, encoded(task, 160, 1), CONFIG, profile, evaluation=encoded(task, 40, 2))
    assert report.before.figure("f1") < 0.5
    assert report.after.figure("f1") > 0.9
    assert report.after.figures[0].name == "f1"
    runner = Runner(bundle, profile)
    (answer,) = task.answer(runner, ["My cast   update your screen cable"], runner.load_adapter(report.adapter))
    first = answer.entities[0]
    assert (first.label, first.text, first.start, first.end) == ("person", "My cast", 0, 7)


def test_the_loss_is_a_mean_of_labels_however_they_are_batched(opened, profile, task):
    bundle, examples = opened("tiny-tagger"), encoded(task, 30, 3)
    found = [evaluate(bundle, examples, profile, batch_size=size) for size in (1, 7, 30)]
    assert {one.labels for one in found} == {int(sum(example.weight for example in examples.examples))}
    np.testing.assert_allclose([one.loss for one in found], found[0].loss, rtol=1e-5)
    assert {one.figures for one in found} == {found[0].figures}


def test_examples_without_tags_do_not_count(opened, profile, task):
    from fieldtune.tasks.tagging.texts import WordsExample

    bundle, examples = opened("tiny-tagger"), encoded(task, 10, 4)
    (bare,) = task.encode([WordsExample(words=("my", "printer"))]).examples
    more = dataclasses.replace(examples, examples=(*examples.examples, bare))
    one, other = (evaluate(bundle, some, profile) for some in (examples, more))
    assert (one.labels, one.figures) == (other.labels, other.figures)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)
