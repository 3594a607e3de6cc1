import json

from fieldtune.files import json_text
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
