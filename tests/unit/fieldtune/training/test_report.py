import dataclasses
import json
import math
import re

from fieldtune.files import json_text
from fieldtune.tasks.interface import Figure
from fieldtune.training.page import report_page
from fieldtune.training.records import EvaluationRecord


def test_before_and_after_are_of_the_start_and_of_what_was_kept(report, evaluation):
    made = report()
    assert made.before.figure("accuracy") == 0.55
    assert made.after.figure("accuracy") == 0.83
    assert report(kept_step=0).after.figure("accuracy") == 0.55
    assert report(kept_step=7).after is None
    assert report(evaluations=()).before is None
    late = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(0.4, 0.8))
    assert report(evaluations=(late,)).before is None


def test_json_holds_everything_but_the_adapter_and_secrets(report):
    data = json.loads(json_text(report().to_json()))
    assert "adapter" not in data
    assert data["format_version"] == "2.0"
    assert data["steps"][39] == {
        "step": 40,
        "epoch": 2.0,
        "loss": 0.025,
        "labels": 8,
        "learning_rate": 0.01,
        "gradient_norm": 1.0,
    }
    assert data["provider"]["options"] == []
    assert data["evaluations"][0] == {
        "step": 0,
        "epoch": 0.0,
        "evaluation": {
            "examples": 10,
            "labels": 10,
            "loss": 0.7,
            "accuracy": 0.55,
            "majority_accuracy": 0.6,
            "seconds": 0.5,
        },
    }
    assert data["subject"]["licence"] == "MIT"


def test_the_page_shows_figures_charts_and_settings(report):
    page = report_page(report())
    for words in (
        "83.0%",
        "+28.0 points",
        "0.4000",
        "-0.3000",
        "60.0%",
        "rank 4, alpha 8",
        "cpu-generic",
        "MIT",
        "160, 3 of them truncated",
        "2,000 tokens a second",
        "1.25, 0.75",
    ):
        assert words in page, words
    assert page.count("<svg") == 2
    assert "<yes>" not in page
    assert "&lt;yes&gt;" in page
    for outside in ("http:", "https:", "<script", "src=", "url("):
        assert outside not in page, outside


def test_shares_come_first_on_the_page_then_the_loss_then_plain_numbers(report, evaluation):
    def written(loss, right, perplexity):
        figures = (
            Figure(name="token_accuracy", value=right, unit="%"),
            Figure(name="perplexity", value=perplexity, better="lower"),
        )
        return dataclasses.replace(evaluation(loss, 0.0), figures=figures)

    before, after = written(2.0, 0.25, 7.389), written(1.0, 0.5, 2.718)
    records = [EvaluationRecord(step=step, epoch=step / 20, evaluation=one) for step, one in ((0, before), (40, after))]
    page = report_page(report(evaluations=tuple(records)))
    names = re.findall(r"<tr><th>([^<]+)</th><td>", page)[:3]
    assert names == ["Token accuracy", "Loss", "Perplexity"]
    for words in ("25.0%", "50.0%", "+25.0 points", "-1.0000", "7.39", "2.72", "-4.67"):
        assert words in page, words
    assert "Majority" not in page
    assert records[0].evaluation.figure("accuracy") is None


def test_a_figure_that_is_not_a_number_is_null_for_programs(evaluation):
    infinite = (Figure(name="perplexity", value=math.inf, better="lower"),)
    found = dataclasses.replace(evaluation(800.0, 0.0), figures=infinite).to_json()
    assert found == {"examples": 10, "labels": 10, "loss": 800.0, "perplexity": None, "seconds": 0.5}


def test_the_page_of_a_run_without_evaluations_or_steps(report, evaluation):
    page = report_page(report(evaluations=(), evaluation_data=None, steps=(), kept_step=0, training_seconds=0.0))
    assert "<svg" not in page
    assert "Held-out" not in page
    assert "interrupted" in report_page(report(stopped="interrupted"))
    broken = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(math.nan, 0.5))
    assert "<svg" in report_page(report(evaluations=(broken,), stopped="diverged"))
