"""The page of a training run: what it shows of which run, and that nothing outside of it is needed."""

import dataclasses
import math
import re

from fieldtune.tasks.interface import Figure
from fieldtune.training.page import report_page
from fieldtune.training.records import EvaluationRecord


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


def test_the_page_of_a_run_without_evaluations_or_steps(report, evaluation):
    page = report_page(report(evaluations=(), evaluation_data=None, steps=(), kept_step=0, training_seconds=0.0))
    assert "<svg" not in page
    assert "Held-out" not in page
    assert "interrupted" in report_page(report(stopped="interrupted"))
    broken = EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(math.nan, 0.5))
    assert "<svg" in report_page(report(evaluations=(broken,), stopped="diverged"))
