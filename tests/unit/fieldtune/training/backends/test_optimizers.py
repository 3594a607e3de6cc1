import math

import numpy as np
import pytest

from fieldtune.errors import CheckpointError
from fieldtune.training.backends.optimizers import SGD, AdamW, AdamWConfig, SGDConfig, clip_gradient, new_optimizer

SIZE = 700
DECAYED = 400
CONFIGS = [
    AdamWConfig(),
    AdamWConfig(weight_decay=0.3, beta1=0.8, beta2=0.95, eps=1e-6),
    AdamWConfig(weight_decay=0.0),
    SGDConfig(),
    SGDConfig(momentum=0.0, weight_decay=0.1),
    SGDConfig(momentum=0.95, weight_decay=0.1),
    SGDConfig(momentum=0.9, weight_decay=0.1, nesterov=True),
]


def _mask():
    mask = np.zeros(SIZE, np.bool_)
    mask[:DECAYED] = True
    return mask


def _gradients(steps):
    # Sizes from 1e-6 to 10: eps and the corrections matter for the small ones only.
    sizes = np.logspace(-6, 1, SIZE).astype(np.float32)
    return (np.random.default_rng(1).standard_normal((steps, SIZE)) * sizes).astype(np.float32)


def _theta():
    return np.random.default_rng(2).standard_normal(SIZE).astype(np.float32)


def _torch_optimizer(torch, config, groups):
    if isinstance(config, AdamWConfig):
        return torch.optim.AdamW(groups, lr=1.0, betas=(config.beta1, config.beta2), eps=config.eps)
    return torch.optim.SGD(groups, lr=1.0, momentum=config.momentum, nesterov=config.nesterov)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_fifty_steps_equal_torch(config):
    torch = pytest.importorskip("torch")
    theta, mask = _theta(), _mask()
    decayed = torch.nn.Parameter(torch.from_numpy(theta[:DECAYED].copy()))
    plain = torch.nn.Parameter(torch.from_numpy(theta[DECAYED:].copy()))
    reference = _torch_optimizer(
        torch,
        config,
        [{"params": [decayed], "weight_decay": config.weight_decay}, {"params": [plain], "weight_decay": 0.0}],
    )
    ours = new_optimizer(config, mask)
    for index, gradient in enumerate(_gradients(50)):
        rate = 0.01 * (1 - index / 50)
        ours.step(theta, gradient, rate)
        decayed.grad, plain.grad = torch.from_numpy(gradient[:DECAYED]), torch.from_numpy(gradient[DECAYED:])
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
    expected = torch.cat([decayed, plain]).detach().numpy()
    assert theta.dtype == np.float32
    assert np.abs(theta - expected).max() <= 1e-6 * np.abs(expected).max()


def test_first_adamw_step_by_hand():
    theta, gradient = np.array([1.0, 1.0], np.float32), np.array([0.5, -0.25], np.float32)
    AdamW(AdamWConfig(weight_decay=0.1), np.array([True, False])).step(theta, gradient, 0.01)
    # The first corrected means are g and g², so the step is the rate times the sign.
    np.testing.assert_allclose(theta, [1 - 0.01 * 0.1 - 0.01, 1 + 0.01], rtol=1e-6)


def test_two_sgd_steps_by_hand():
    theta, gradient = np.array([1.0, 2.0], np.float32), np.array([0.5, 0.5], np.float32)
    sgd = SGD(SGDConfig(momentum=0.5), np.array([True, True]))
    sgd.step(theta, gradient, 0.1)
    np.testing.assert_allclose(theta, [0.95, 1.95], rtol=1e-6)
    sgd.step(theta, gradient, 0.1)
    np.testing.assert_allclose(theta, [0.875, 1.875], rtol=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_gradient_is_left_as_it_is_and_float64_rates_keep_float32(config):
    theta, gradient = _theta(), _gradients(1)[0]
    other, before = theta.copy(), gradient.copy()
    new_optimizer(config, _mask()).step(theta, gradient, np.float64(0.01))
    new_optimizer(config, _mask()).step(other, gradient, 0.01)
    np.testing.assert_array_equal(gradient, before)
    np.testing.assert_array_equal(theta, other)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_run_continued_from_its_state_is_identical(config):
    gradients = _gradients(12)
    whole, theta = new_optimizer(config, _mask()), _theta()
    for gradient in gradients[:5]:
        whole.step(theta, gradient, 0.01)
    state, continued = whole.state(), theta.copy()
    for gradient in gradients[5:]:
        whole.step(theta, gradient, 0.01)
    resumed = new_optimizer(config, _mask())
    resumed.load_state(state)
    for gradient in gradients[5:]:
        resumed.step(continued, gradient, 0.01)
    np.testing.assert_array_equal(continued, theta)


def test_a_state_that_does_not_fit_is_refused_with_every_fault():
    state = SGD(SGDConfig(), np.ones(3, np.bool_)).state()
    with pytest.raises(CheckpointError) as caught:
        AdamW(AdamWConfig(), _mask()).load_state({**state, "mean": np.zeros(SIZE, np.float64)})
    message = str(caught.value)
    assert "step: missing" in message
    assert "mean_square: missing" in message
    assert "momentum: unknown to AdamW" in message
    assert "mean: float64 (700,); expected float32 (700,)" in message


def test_vectors_of_another_shape_or_dtype_are_refused():
    optimizer = AdamW(AdamWConfig(), np.ones(3, np.bool_))
    with pytest.raises(ValueError, match=r"gradient is float32 \(1,\); expected float32 \(3,\)"):
        optimizer.step(np.ones(3, np.float32), np.ones(1, np.float32), 0.1)
    with pytest.raises(ValueError, match="theta is float64"):
        optimizer.step(np.ones(3), np.ones(3, np.float32), 0.1)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (AdamWConfig, {"beta1": 1.0}),
        (AdamWConfig, {"beta2": -0.1}),
        (AdamWConfig, {"eps": -1e-8}),
        (AdamWConfig, {"weight_decay": math.nan}),
        (SGDConfig, {"momentum": -0.5}),
        (SGDConfig, {"momentum": 0.0, "nesterov": True}),
    ],
)
def test_settings_out_of_range_are_refused(config, values):
    with pytest.raises(ValueError, match=next(reversed(values))):
        config(**values)


@pytest.mark.parametrize(("max_norm", "scale"), [(0.5, 1.0), (3.0, 1.0), (1e6, 1.0), (1e-7, 1e-7)])
def test_clipping_equals_torch(max_norm, scale):
    torch = pytest.importorskip("torch")
    gradient = _gradients(1)[0] * np.float32(scale)
    parameter = torch.nn.Parameter(torch.zeros(SIZE))
    parameter.grad = torch.from_numpy(gradient.copy())
    expected = torch.nn.utils.clip_grad_norm_([parameter], max_norm).item()
    assert clip_gradient(gradient, max_norm) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-6)


def test_the_norm_is_exact_where_float32_would_overflow_or_lose_terms():
    assert clip_gradient(np.full(4, 1e30, np.float32), 1e40) == pytest.approx(2e30, rel=1e-6)
    many = np.full(1 << 22, 1e-3, np.float32)
    assert clip_gradient(many, 1e9) == pytest.approx(float(many[0]) * 2**11, rel=1e-12)


def test_clipping_by_hand():
    gradient = np.array([3.0, 4.0], np.float32)
    assert clip_gradient(gradient, 1.0) == 5.0
    np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_is_reported_and_left(bad):
    gradient = np.array([1.0, bad], np.float32)
    assert not math.isfinite(clip_gradient(gradient, 1.0))
    np.testing.assert_array_equal(gradient, np.array([1.0, bad], np.float32))


def test_a_max_norm_of_zero_is_refused():
    with pytest.raises(ValueError, match="max_norm is 0"):
        clip_gradient(np.ones(2, np.float32), 0)
