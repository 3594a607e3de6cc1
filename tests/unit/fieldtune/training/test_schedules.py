import math
import warnings

import pytest

from fieldtune.training.schedules import Warmup, learning_rate

NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(40, 0), (40, 7), (5, 5), (1, 0)])
def test_every_step_equals_transformers(schedule, total_steps, warmup_steps):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    reference = transformers.get_scheduler(
        NAMES[schedule], optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps
    )
    expected = []
    for _ in range(total_steps):
        expected.append(reference.get_last_lr()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no optimizer step is taken between the schedule's
            reference.step()
    found = [
        learning_rate(step, total_steps=total_steps, peak=3e-4, schedule=schedule, warmup_steps=warmup_steps)
        for step in range(total_steps)
    ]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.0, 0.5, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_six_steps_by_hand(schedule, expected):
    found = [learning_rate(step, total_steps=6, peak=1.0, schedule=schedule, warmup_steps=2) for step in range(6)]
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_past_the_end_the_rate_stays_at_zero(schedule):
    assert learning_rate(9, total_steps=6, peak=1.0, schedule=schedule, warmup_steps=0) == 0.0


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'step'; expected linear, cosine or constant"):
        learning_rate(3, total_steps=6, peak=1.0, schedule="step", warmup_steps=0)


@pytest.mark.parametrize(
    ("warmup", "steps"), [(Warmup(), 0), (Warmup(ratio=0.1), 3), (Warmup(ratio=1.0), 25), (Warmup(steps=40), 40)]
)
def test_warmup_counts_whole_steps(warmup, steps):
    assert warmup.count(25) == steps


@pytest.mark.parametrize("values", [{"ratio": 1.1}, {"ratio": -0.1}, {"steps": -1}, {"ratio": 0.1, "steps": 3}])
def test_a_warmup_out_of_range_or_given_twice_is_refused(values):
    with pytest.raises(ValueError, match="the warm-up"):
        Warmup(**values)
