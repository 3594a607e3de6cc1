"""How texts are prepared, from a tokenizer and a model's configuration."""

import pytest
from tokenizers import Tokenizer, models
from torch import nn
from transformers import BertConfig, GenerationConfig, PreTrainedTokenizerFast

from fieldtune.errors import UnsupportedModel
from fieldtune_offline.modalities.text import text_spec

VOCABULARY = {"[PAD]": 0, "<s>": 1, "</s>": 2, "<end>": 3, "a": 4}


class Model(nn.Module):
    def __init__(self, positions=64, stops=None):
        super().__init__()
        self.config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=positions)
        self.generation_config = GenerationConfig(eos_token_id=stops)


def tokenizer(longest=48, **special):
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **special)


def test_the_shorter_limit_holds_of_model_and_tokenizer():
    assert text_spec(Model(64), tokenizer(48), "m", None).max_length == 48
    assert text_spec(Model(32), tokenizer(48), "m", None).max_length == 32
    assert text_spec(Model(32), tokenizer(int(1e30)), "m", None).max_length == 32


def test_a_static_length_takes_its_place_or_is_refused():
    assert text_spec(Model(), tokenizer(), "m", 9).max_length == 9
    with pytest.raises(UnsupportedModel, match=r"^m: takes up to 48 tokens; a sequence of 49 was asked for$"):
        text_spec(Model(), tokenizer(), "m", 49)


@pytest.mark.parametrize(
    ("stops", "special", "expected"),
    [
        ([2, 3], {"eos_token": "</s>"}, (2, 3)),
        (3, {"eos_token": "</s>"}, (3,)),
        (None, {"eos_token": "</s>"}, (2,)),
        (None, {}, ()),
    ],
)
def test_answers_end_where_the_model_says_else_the_tokenizer(stops, special, expected):
    assert text_spec(Model(stops=stops), tokenizer(**special), "m", None).stop_token_ids == expected


@pytest.mark.parametrize(
    ("stops", "special", "pad"), [([3, 2], {"pad_token": "[PAD]"}, 0), ([3, 2], {}, 3), (None, {}, 0)]
)
def test_what_pads_is_known_to_bundle_and_model(stops, special, pad):
    model = Model(stops=stops)
    assert text_spec(model, tokenizer(**special), "m", None).pad_token_id == pad
    assert model.config.pad_token_id == pad


def test_special_tokens_and_the_template_of_a_chat_come_along():
    made = tokenizer(bos_token="<s>", eos_token="</s>")
    made.chat_template = "{{ messages }}"
    found = text_spec(Model(), made, "m", None)
    assert {"bos_token": "<s>", "eos_token": "</s>"}.items() <= found.special_tokens.items()
    assert found.chat_template == "{{ messages }}"
    made.chat_template = {"default": "one", "tool_use": "other"}
    assert text_spec(Model(), made, "m", None).chat_template == "one"
    assert text_spec(Model(), tokenizer(), "m", None).chat_template is None
