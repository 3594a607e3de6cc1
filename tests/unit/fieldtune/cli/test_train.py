"""What ``fieldtune train`` says of a run that has ended, and with which code."""

import json
from pathlib import Path

import pytest

from builders import evaluation, train_report
from fieldtune.cli.train import Train, _tell
from fieldtune.training.records import EvaluationRecord


@pytest.fixture
def told(capsys):
    """The function from a report to the exit code, the rows on stdout, and stderr."""

    def run(report, fault="", **flags):
        code = _tell(Train(bundle=Path("b"), data=Path("d"), out=Path("out"), **flags), report, fault)
        printed = capsys.readouterr()
        return code, [line.split() for line in printed.out.splitlines() if line.strip()], printed.err

    return run


def test_figures_before_and_after_stand_side_by_side(told):
    code, rows, err = told(train_report())
    assert (code, err) == (0, "")
    assert rows[0] == ["Held-out", "examples"]
    assert ["before", "after"] in rows
    assert ["loss", "0.7000", "0.4000"] in rows
    assert ["accuracy", "55.0", "%", "83.0", "%"] in rows
    assert rows[-1] == ["adapter", "and", "reports:", "out"]


def test_an_adapter_that_was_not_evaluated_is_told(told):
    _, rows, _ = told(train_report(kept_step=7))
    assert ["before", "after", "(not", "evaluated)"] in rows
    assert ["loss", "0.7000", "-"] in rows


def test_without_held_out_examples_there_are_losses_of_steps(told):
    _, rows, _ = told(train_report(evaluations=()))
    assert ["training", "loss", "1.0000", "0.0250"] in rows
    _, rows, _ = told(train_report(evaluations=(), steps=()))
    assert ["training", "loss"] in rows


def test_an_interrupted_run_says_how_far_it_got(told):
    code, rows, err = told(train_report(stopped="interrupted", steps=train_report().steps[:12]))
    assert code == 130
    assert err == "fieldtune: interrupted after step 12 of 40; the adapter so far is in out\n"
    assert rows[-1][-1] == "out"


def test_a_run_that_diverged_is_an_error_with_a_result(told):
    code, rows, err = told(train_report(stopped="diverged"), "the loss is nan in step 7")
    assert code == 1
    assert err == "fieldtune: error: the loss is nan in step 7; it is in out\n"
    assert rows[-1][-1] == "out"


def test_for_programs_stdout_is_the_report_alone(capsys):
    late = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(float("inf"), 0.8))
    command = Train(bundle=Path("b"), data=Path("d"), out=Path("out"), as_json=True)
    assert _tell(command, train_report(evaluations=(late,)), "") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["out"], found["planned_steps"]) == ("out", 40)
    assert found["evaluations"][0]["evaluation"]["loss"] is None
