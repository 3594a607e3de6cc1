import dataclasses
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.quiet import quiet_loading
from fieldtune_offline.tasks.text_generation import TextGeneration, cache_layers, cache_parameter


@dataclasses.dataclass
class OldResult:
    logits: torch.Tensor
    past_key_values: DynamicCache


@dataclasses.dataclass
class NewResult:
    logits: torch.Tensor
    cache: DynamicCache


class OldName(torch.nn.Module):
    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        return OldResult(input_ids, past_key_values)


class NewName(torch.nn.Module):
    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, use_cache=None, **kwargs):
        return NewResult(input_ids, cache)


class NoCache(torch.nn.Module):
    def forward(self, input_ids, use_cache=None):
        return (input_ids,)


@pytest.fixture
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, pad_token_id=0, **sizes)).eval()


@pytest.mark.parametrize(("model", "name"), [(OldName(), "past_key_values"), (NewName(), "cache")])
def test_a_model_gets_its_cache_by_the_name_that_it_has(model, name):
    assert cache_parameter(model) == name
    past = DynamicCache([(torch.ones(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))])
    result = model(torch.zeros((1, 1), dtype=torch.int64), **{name: past})
    (layer,) = cache_layers(result)
    assert layer.keys.shape == (1, 1, 3, 2)


def test_a_result_without_a_cache_has_no_layers():
    assert cache_layers((torch.zeros(1),)) == ()
    with pytest.raises(UnsupportedModel, match="NoCache: keeps no key-value cache"):
        TextGeneration(NoCache())


def test_the_installed_transformers_takes_the_cache_by_the_name_that_it_likes(llama, caplog):
    with quiet_loading():
        model = get_peft_model(llama, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    assert cache_parameter(model) == cache_parameter(llama)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = TextGeneration(model)
        (_, later, _) = task.inference_batches(2, 4, seed=0)
        found = task.inference_reference(later)
    assert found["logits"].shape == (2, 4, 32)
    # Five tokens of the past and four new ones; two heads of eight.
    assert found["present.1.key"].shape == (2, 2, 9, 8)
    # transformers warns of the old name in both ways.
    said = [str(warning.message) for warning in caught] + caplog.messages
    assert [line for line in said if "past_key_values" in line] == []
