import numpy as np
import pytest

from fieldtune.training import TrainConfig, train_adapter
from fieldtune.training.evaluation import evaluate

CONFIG = TrainConfig(epochs=100, batch_size=4, gradient_accumulation=1, learning_rate=1e-2)
CONTEXT = "the cast is great, the acting is fine. the story is not moving."
QUESTIONS = {"how is the acting?": "fine", "what is not moving?": "the story", "how is the screen?": ""}


@pytest.fixture
def task(opened):
    from fieldtune.tasks import open_task

    return open_task(opened("tiny-questions"))


def examples(context=CONTEXT):
    from fieldtune.tasks.answering.questions import QuestionExample, Span

    return [
        QuestionExample(
            question=question, context=context, answers=(Span(answer, context.index(answer)),) if answer else ()
        )
        for question, answer in QUESTIONS.items()
    ]


def test_answers_are_learned_and_found(opened, profile, task):
    from fieldtune.serving.runner import Runner
    from fieldtune.tasks.question_answering import QuestionOptions

    bundle = opened("tiny-questions")
    report = train_adapter(bundle, examples(), CONFIG, profile, evaluation=examples())
    assert report.after.figure("exact_match") == report.after.figure("f1") == 1.0
    assert report.after.figures[0].name == "exact_match"
    runner = Runner(bundle, profile)
    pairs, adapter = [(question, CONTEXT) for question in QUESTIONS], runner.load_adapter(report.adapter)
    found = task.answer(runner, pairs, adapter, options=QuestionOptions(unanswerable=True))
    assert [one.best.answer or "" for one in found] == list(QUESTIONS.values())
    alone = [task.answer(runner, [pair], adapter)[0] for pair in pairs]
    together = task.answer(runner, pairs, adapter)
    assert [one.best.answer for one in alone] == [one.best.answer for one in together]
    np.testing.assert_allclose(
        [one.best.probability for one in alone], [one.best.probability for one in together], rtol=1e-4
    )


def test_figures_do_not_depend_on_how_windows_are_batched(opened, profile, task):
    encoded = task.encode([*examples(), *examples(" ".join([CONTEXT] * 5))])
    assert len(encoded.examples) > len(encoded.questions) == 6
    found = [evaluate(opened("tiny-questions"), encoded, profile, batch_size=size) for size in (1, 3, 16)]
    assert {one.labels for one in found} == {len(encoded.examples)}
    assert {one.figures for one in found} == {found[0].figures}
