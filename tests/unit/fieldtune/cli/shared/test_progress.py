"""What a run without a terminal writes about itself, and what is said of times that an emulation is part of."""

import io

import pytest
from rich.console import Console

from builders import CPU, VITIS, epoch_record, placement_report, profile, step_record
from fieldtune.cli.shared.progress import counted, evaluation_progress, training_progress
from fieldtune.runtime.providers import choose_provider
from fieldtune.tasks.interface import Figure
from fieldtune.training.backends.choice import BackendChoice
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import DataCounts, Evaluating, EvaluationRecord, Started


@pytest.fixture
def told():
    """The function from events to the lines that are written where there is no terminal."""

    def run(*events):
        console = Console(file=io.StringIO(), force_terminal=False, width=40)
        with training_progress(console) as progress:
            for event in events:
                progress(event)
        return console.file.getvalue().splitlines()

    return run


def started(**changes):
    values = {
        "profile": "board",
        "provider": choose_provider(profile(), [CPU]),
        "backend": BackendChoice(name="portable", reason="as asked for"),
        "placement": None,
        "split": None,
        "planned_steps": 40,
        "train_data": DataCounts(examples=160, truncated=0, dropped=0),
        "evaluation_data": None,
    }
    return Started(**{**values, **changes})


def evaluated(number, *figures):
    evaluation = Evaluation(examples=9, labels=9, loss=0.5, figures=figures, seconds=1.0)
    return EvaluationRecord(step=number, epoch=number / 16, evaluation=evaluation)


def test_the_start_says_what_runs_where_and_on_what(told):
    lines = told(
        started(
            placement=placement_report(shares=(), actual=VITIS, graph="gradient", batch=None),
            evaluation_data=DataCounts(examples=9, truncated=0, dropped=0),
        )
    )
    assert lines == [
        "provider: CPUExecutionProvider, as the profile board says",
        "backend: portable, as asked for",
        f"placement: gradient on {VITIS}, any number of samples a run",
        "training: 160 examples",
        "held out: 9 examples",
    ]
    assert len(told(started())) == 3


def test_ten_lines_tell_the_steps_however_many_there_are(told):
    lines = told(started(), *map(step_record, range(1, 41)))[3:]
    assert len(lines) == 10
    assert lines[0] == "step 4/40: loss 0.2500  lr 1.00e-02"
    assert lines[-1] == "step 40/40: loss 0.0250  lr 1.00e-02"
    assert len(told(started(planned_steps=3), *map(step_record, range(1, 4)))[3:]) == 3


def test_evaluations_begin_with_the_figure_that_matters_most(told):
    figures = (Figure(name="f1", value=0.5, unit="%", title="F1"), Figure(name="recall", value=0.1, unit="%"))
    lines = told(evaluated(0, *figures), Evaluating(done=1, total=2), evaluated(20, *figures), evaluated(21))
    assert lines == [
        "before training: held-out loss 0.5000, F1 50.0 %",
        "epoch 1.25, step 20: held-out loss 0.5000, F1 50.0 %",
        "epoch 1.31, step 21: held-out loss 0.5000",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "epoch 2: 1.25 s"),
        ({"cached": 16}, "epoch 2: 1.25 s; no prefix, 16 from the cache"),
        (
            {"cached": 4, "computed": 12, "prefix_seconds": 0.5},
            "epoch 2: 1.25 s; prefix 0.50 s for 12 examples, 4 from the cache",
        ),
        (
            {"computed": 16, "prefix_seconds": 0.75, "prefix_emulated": True},
            "epoch 2: 1.25 s, emulation included; emulated prefix 0.75 s for 16 examples, 0 from the cache",
        ),
    ],
)
def test_an_epoch_says_what_of_it_the_prefix_took(told, changes, said):
    assert told(epoch_record(2, 1.25, **changes)) == [said]


def test_what_became_of_examples_that_were_too_long():
    assert counted(DataCounts(examples=5, truncated=0, dropped=0)) == "5 examples"
    counts = DataCounts(examples=5, truncated=2, dropped=1, notes=("3 words are longer than a piece",))
    assert counted(counts) == (
        "5 examples, 2 of them truncated, 1 more dropped: nothing to learn from was left of them; "
        "3 words are longer than a piece"
    )


def test_an_evaluation_shows_how_far_it_is_on_a_terminal_alone():
    pipe = Console(file=io.StringIO(), force_terminal=False)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    for console in (pipe, terminal):
        with evaluation_progress(console) as ticks:
            ticks(2, 5)
    assert pipe.file.getvalue() == ""
    assert "2/5" in terminal.file.getvalue()
