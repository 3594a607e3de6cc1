"""Twenty steps of AdamW on real models: the device's loop on stock ONNX Runtime beside torch and PEFT."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fieldtune.adapters.arrays import to_theta
from fieldtune.adapters.directory import read_adapter
from fieldtune.bundle.opening import open_bundle
from fieldtune.hardware import load_profile
from fieldtune.hardware.installed import features
from fieldtune.runtime.providers import choose_provider
from fieldtune.training.backends.optimizers import AdamWConfig
from fieldtune.training.backends.portable import PortableBackend

STEPS = 20
TOLERANCE = 1e-3
LEARNING_RATE = 2e-3


@pytest.fixture
def torch_noise():
    # What torch, transformers and PEFT say of themselves while they load is not this project's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _losses_of_the_device(bundle, batches):
    choice = choose_provider(load_profile("cpu-generic"), features().providers)
    theta = to_theta(read_adapter(bundle.adapter_path), bundle.manifest)
    backend = PortableBackend(bundle, choice, theta, AdamWConfig(), max_grad_norm=1.0)
    losses = []
    for batch in batches:
        labels = batch["labels"]
        # Of texts all but the first position's count, for the model shifts them.
        weight = np.count_nonzero((labels[:, 1:] if labels.ndim == 2 else labels) != -100)
        sums = backend.accumulate(batch, weight)
        backend.update(LEARNING_RATE)
        losses.append(sums.loss / sums.weight)
    return losses


def _losses_of_torch(model, batches):
    config = AdamWConfig()
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    groups = [
        {"params": [tensor for tensor in trained if tensor.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [tensor for tensor in trained if tensor.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(config.beta1, config.beta2), eps=config.eps)
    losses = []
    for batch in batches:
        loss = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _text(rng, rows, tokens):
    ids = rng.integers(1000, 5000, (rows, tokens))
    mask = np.ones_like(ids)
    for row in range(rows):
        mask[row, tokens - 2 * row :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _compare(found, expected):
    assert len(found) == STEPS
    assert expected[-1] != pytest.approx(expected[0], rel=0.01), "nothing was learned, so nothing is compared"
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_twenty_steps_of_minilm_are_those_of_torch_and_peft(asset, real_bundle, torch_noise):
    model_path = str(asset("minilm"))
    bundle = open_bundle(real_bundle("real-minilm"))
    rng = np.random.Generator(np.random.PCG64(3))
    batches = []
    for _ in range(STEPS):
        batch = {**_text(rng, 4, 24), "labels": rng.integers(0, 2, 4)}
        batch["labels"][3] = -100
        batches.append(batch)
    base = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=2, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, str(bundle.adapter_path), is_trainable=True).eval()
    _compare(_losses_of_the_device(bundle, batches), _losses_of_torch(model, batches))


@pytest.mark.slow
def test_twenty_steps_of_smollm2_are_those_of_torch_and_peft(asset, real_bundle, torch_noise):
    model_path = str(asset("smollm2"))
    bundle = open_bundle(real_bundle("real-smollm2"))
    rng = np.random.Generator(np.random.PCG64(4))
    # The same few rows again and again, so that there is something to learn.
    rows = _text(rng, 2, 24)
    labels = np.where(rows["attention_mask"] == 1, rows["input_ids"], -100)
    labels[:, :8] = -100
    batches = [{**rows, "labels": labels}] * STEPS
    base = AutoModelForCausalLM.from_pretrained(model_path, attn_implementation="eager", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(bundle.adapter_path), is_trainable=True).eval()
    _compare(_losses_of_the_device(bundle, batches), _losses_of_torch(model, batches))
