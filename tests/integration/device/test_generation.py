import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from fieldtune.adapters.directory import read_adapter
from fieldtune.adapters.tensors import StoredTensor
from fieldtune.bundle.opening import open_bundle
from fieldtune.data.chat import Message
from fieldtune.data.dialogue import encode_prompt
from fieldtune.errors import InvalidBundle, InvalidData
from fieldtune.hardware import load_profile
from fieldtune.serving import GenerationSettings, generation
from fieldtune.serving.generation import chat, generate, stream_text
from fieldtune.serving.runner import Runner

pytest.importorskip("onnxruntime")

PROFILE = load_profile("cpu-generic")
PROMPT = [1, 40, 77, 120, 33, 90, 91, 7]


def _bundles():
    return Path(os.environ.get("FIELDTUNE_TEST_BUNDLES", "."))


@pytest.fixture(scope="module")
def runner():
    path = _bundles() / "tiny-lm"
    if not (path / "manifest.json").is_file():
        pytest.skip("no bundle tiny-lm in FIELDTUNE_TEST_BUNDLES; make it with tests/tiny_bundles.py")
    return Runner(open_bundle(path), PROFILE)


@pytest.fixture(scope="module")
def adapter(runner):
    like = read_adapter(runner.bundle.adapter_path)
    rng = np.random.default_rng(1)
    tensors = {
        key: StoredTensor.from_float32((rng.standard_normal(old.shape) * 0.3).astype(np.float32), "F32")
        for key, old in like.tensors.tensors.items()
    }
    return runner.load_adapter(
        dataclasses.replace(like, tensors=dataclasses.replace(like.tensors, tensors=tensors)), "random"
    )


def _with_text(runner, **changes):
    """A runner of the same bundle whose manifest says something else of its text."""
    manifest = runner.bundle.manifest
    manifest = dataclasses.replace(manifest, text=dataclasses.replace(manifest.text, **changes))
    return Runner(dataclasses.replace(runner.bundle, manifest=manifest), PROFILE)


@pytest.fixture(scope="module")
def endless(runner):
    """The runner without stop tokens, so that random weights do not end an answer early."""
    return _with_text(runner, stop_token_ids=())


def _written(runner, count, adapter=None, **settings):
    return list(
        generate(runner, PROMPT, settings=GenerationSettings(max_new_tokens=count, **settings), adapter=adapter)
    )


def _logits_of_whole_text(runner, ids, adapter):
    """The logits of every position, without a cache: (tokens, vocabulary)."""
    count = len(ids)
    feeds = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count)[None],
        **generation._empty_cache(runner.graph),
    }
    return runner.run(feeds, adapter, outputs=["logits"])["logits"][0]


def test_the_cache_changes_no_token(endless, adapter):
    for used in (None, adapter):
        found = _written(endless, 24, used)
        logits = _logits_of_whole_text(endless, [*PROMPT, *found], used)
        # Position t predicts token t + 1.
        assert logits[len(PROMPT) - 1 : -1].argmax(axis=-1).tolist() == found
        assert len(found) == 24
    assert _written(endless, 24) != found


def test_a_prompt_read_in_pieces_changes_no_token(endless, adapter, monkeypatch):
    whole = _written(endless, 12, adapter)
    for pieces in (1, 3, len(PROMPT) - 1, len(PROMPT)):
        monkeypatch.setattr(generation, "PROMPT_TOKENS_AT_ONCE", pieces)
        assert _written(endless, 12, adapter) == whole


def test_it_ends_before_a_stop_token(runner, endless, adapter):
    whole = _written(endless, 24, adapter)
    stop = whole[10]
    stopping = _with_text(runner, stop_token_ids=(stop,))
    assert _written(stopping, 24, adapter) == whole[: whole.index(stop)]


def test_it_ends_after_max_new_tokens_and_at_max_length(runner, endless):
    assert len(_written(endless, 5)) == 5
    short = _with_text(runner, stop_token_ids=(), max_length=len(PROMPT) + 3)
    assert _written(short, 50) == _written(endless, 3)
    last = _with_text(runner, stop_token_ids=(), max_length=len(PROMPT) + 1)
    assert _written(last, 50) == _written(endless, 1)


def test_a_prompt_without_room_for_an_answer_is_refused_at_once(runner):
    full = _with_text(runner, max_length=len(PROMPT))
    with pytest.raises(InvalidData, match="the prompt has 8 tokens, and this model takes 8, its answer included"):
        generate(full, PROMPT)
    with pytest.raises(InvalidData, match="the prompt is empty"):
        generate(runner, [])


def test_a_seed_decides_what_is_drawn(endless):
    first = _written(endless, 16, temperature=1.5, seed=3)
    assert _written(endless, 16, temperature=1.5, seed=3) == first
    assert _written(endless, 16, temperature=1.5, seed=4) != first


def test_drawing_among_one_token_is_greedy(endless):
    greedy = _written(endless, 16)
    assert _written(endless, 16, temperature=2.0, top_k=1) == greedy
    assert _written(endless, 16, temperature=1e-6) == greedy


def test_tokens_are_drawn_from_the_likeliest(endless):
    found = _written(endless, 24, temperature=3.0, top_k=4, seed=5)
    logits = _logits_of_whole_text(endless, [*PROMPT, *found], None)[len(PROMPT) - 1 : -1]
    ranks = [int((row > row[token]).sum()) for row, token in zip(logits, found, strict=True)]
    assert max(ranks) <= 3
    assert len(set(ranks)) > 1


def test_a_strong_penalty_forbids_repetition(endless):
    # Every logit of a seen token becomes tiny or hugely negative, so only new tokens are taken as long as one is above.
    found = _written(endless, 24, repetition_penalty=1e6)
    assert len(set(found)) == 24
    assert not set(found) & set(PROMPT)


def test_a_string_is_the_users_turn_unless_raw(endless):
    settings = GenerationSettings(max_new_tokens=10)
    text, tokenizer = endless.bundle.manifest.text, endless.tokenizer

    def answered(ids):
        return "".join(stream_text(generate(endless, ids, settings=settings), tokenizer))

    turn = encode_prompt([Message(role="user", content="hi")], tokenizer, text)
    raw = tokenizer.encode("hi").ids
    assert len(turn) > len(raw)
    found = {raw: "".join(chat(endless, "hi", settings=settings, raw=raw)) for raw in (False, True)}
    assert found == {False: answered(turn), True: answered(raw)}
    assert found[False] != found[True]
    assert "".join(chat(endless, [Message(role="user", content="hi")], settings=settings)) == found[False]


def test_a_classifier_is_asked_for_no_text(runner):
    path = _bundles() / "tiny-classifier"
    if not (path / "manifest.json").is_file():
        pytest.skip("no bundle tiny-classifier in FIELDTUNE_TEST_BUNDLES; make it with tests/tiny_bundles.py")
    with pytest.raises(
        InvalidBundle, match="is a bundle for text-classification; it keeps no cache to write tokens with"
    ):
        generate(Runner(open_bundle(path), PROFILE), PROMPT)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_answers_are_those_of_transformers(endless, penalty):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = _bundles() / "models" / "lm"
    if not source.is_dir():
        pytest.skip("no models/lm in FIELDTUNE_TEST_BUNDLES; make it with tests/tiny_bundles.py")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    prompt = torch.tensor([PROMPT])
    model.generation_config.eos_token_id = None
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=40,
        repetition_penalty=penalty,
        pad_token_id=2,
    )
    assert _written(endless, 40, repetition_penalty=penalty) == answer[0, len(PROMPT) :].tolist()
