import json
import math

from fieldtune.files.json_text import json_text
from fieldtune.training.page import report_page
from fieldtune.training.report import EvaluationRecord


def test_before_and_after_are_of_the_start_and_of_what_was_kept(report, evaluation):
    made = report()
    assert made.before.accuracy == 0.55
    assert made.after.accuracy == 0.83
    assert report(kept_step=0).after.accuracy == 0.55
    assert report(kept_step=7).after is None
    assert report(evaluations=()).before is None
    late = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(0.4, 0.8))
    assert report(evaluations=(late,)).before is None


def test_json_holds_everything_but_the_adapter_and_secrets(report):
    data = json.loads(json_text(report().to_json()))
    assert "adapter" not in data
    assert data["format_version"] == "1.1"
    assert data["steps"][39] == {
        "step": 40,
        "epoch": 2.0,
        "loss": 0.025,
        "labels": 8,
        "learning_rate": 0.01,
        "gradient_norm": 1.0,
    }
    assert data["provider"]["options"] == []
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


def test_the_page_of_a_run_without_evaluations_or_steps(report, evaluation):
    page = report_page(report(evaluations=(), evaluation_data=None, steps=(), kept_step=0, training_seconds=0.0))
    assert "<svg" not in page
    assert "Held-out" not in page
    assert "interrupted" in report_page(report(stopped="interrupted"))
    broken = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(math.nan, 0.5))
    assert "<svg" in report_page(report(evaluations=(broken,), stopped="diverged"))
