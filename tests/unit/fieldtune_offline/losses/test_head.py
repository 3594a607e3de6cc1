"""Which heads are computed outside of their models: frozen ones whose logits are the model's own."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

from fieldtune.bundle import IGNORE_INDEX
from fieldtune_offline.losses.head import frozen_head
from fieldtune_offline.precisions.holding import weight_of
from fieldtune_offline.precisions.packing import pack_base
from fieldtune_offline.precisions.table import precision_of
from fieldtune_offline.quiet import quiet_loading

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KEPT = {
    "Llama": SIZES,
    "Phi3": {**SIZES, "tie_word_embeddings": False},
    "GPT2": {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2},
    # With a bias.
    "Phi": SIZES,
}
CHANGED = {
    "Gemma2": SIZES,
    "Granite": {**SIZES, "logits_scaling": 4.0},
    "Cohere": {**SIZES, "logit_scale": 0.25},
}


def model_of(family, settings):
    torch.manual_seed(0)
    with quiet_loading():
        made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**settings))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(("family", "settings"), KEPT.items(), ids=KEPT)
def test_the_head_alone_gives_the_models_loss(family, settings):
    model = model_of(family, settings)
    ids = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    targets = torch.cat([ids[:, 1:], ids.new_full((2, 1), IGNORE_INDEX)], 1)
    head = frozen_head(model)
    with head.passed_over():
        hidden = model(input_ids=ids).logits
    loss, correct = head.sums(hidden.reshape(-1, 16), targets.reshape(-1))
    result = model(input_ids=ids, labels=ids)
    assert loss.item() == pytest.approx(12 * result.loss.item(), rel=1e-5)
    assert correct == (result.logits[:, :-1].argmax(-1) == ids[:, 1:]).sum()


@pytest.mark.parametrize(("family", "settings"), CHANGED.items(), ids=CHANGED)
def test_a_model_that_changes_its_logits_keeps_its_head(family, settings):
    assert frozen_head(model_of(family, settings)) is None


def test_a_change_in_place_is_a_change():
    model = model_of("Llama", SIZES)
    forward = model.forward

    def halved(*args, **kwargs):
        result = forward(*args, **kwargs)
        result.logits.mul_(0.5)
        return result

    model.forward = halved
    assert frozen_head(model) is None


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}],
    ids=["adapted", "saved"],
)
def test_a_head_that_is_trained_stays_in_the_model(settings):
    model = model_of("Llama", {**SIZES, "tie_word_embeddings": False})
    with quiet_loading():
        adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    assert frozen_head(adapted) is None


def test_weights_that_learn_are_not_frozen():
    model = model_of("Llama", {**SIZES, "tie_word_embeddings": False})
    assert frozen_head(model) is not None
    model.lm_head.weight.requires_grad_(True)
    assert frozen_head(model) is None


def test_a_head_that_another_class_computes_stays_in_the_model():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = model_of("Llama", SIZES)
    model.lm_head = Doubled(16, 40, bias=False).requires_grad_(False)
    assert frozen_head(model) is None


def test_a_packed_head_multiplies_as_its_precision_does():
    model = model_of("Llama", SIZES)
    pack_base(model, precision_of("int4/32/asymmetric"))
    hidden, targets = torch.randn(5, 16), torch.tensor([3, 39, 0, IGNORE_INDEX, 7])
    loss, _ = frozen_head(model).sums(hidden, targets)
    logits = model.lm_head(hidden)
    wanted = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.allclose(logits, hidden @ weight_of(model.lm_head).T, atol=0.1)


def test_the_layer_is_itself_again_after_it_was_passed_over():
    model = model_of("Llama", SIZES)
    pack_base(model, precision_of("int8"))
    before, hidden = model.lm_head.forward, torch.randn(2, 16)
    wanted, head = model.lm_head(hidden), frozen_head(model)

    def interrupted():
        with head.passed_over():
            assert model.lm_head(hidden) is hidden
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert model.lm_head.forward == before
    assert torch.equal(model.lm_head(hidden), wanted)
