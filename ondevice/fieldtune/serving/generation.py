"""Text generation: token by token with a key-value cache, greedy or sampled, streamed as text."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fieldtune.bundle import PAST, PRESENT, GraphSpec, decodes
from fieldtune.data import IntArray, Message, encode_prompt
from fieldtune.errors import InvalidBundle, InvalidData
from fieldtune.serving.generation_settings import GenerationSettings
from fieldtune.serving.runner import Arrays, LoadedAdapter, Runner
from fieldtune.serving.sampling import draw, likeliest, penalize, token_probabilities

if TYPE_CHECKING:
    import tokenizers


PROMPT_TOKENS_AT_ONCE = 256
"""A long prompt is read in pieces, for the graph computes logits of every position: 200 KB a token for SmolLM2."""

_UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no character yet."""


def generate(
    runner: Runner,
    prompt_ids: npt.ArrayLike,
    *,
    settings: GenerationSettings | None = None,
    adapter: LoadedAdapter | None = None,
) -> Iterator[int]:
    """Write the tokens that follow a prompt, one at a time.

    It ends before a stop token, after ``max_new_tokens``, or where prompt and answer have the model's ``max_length``.

    Args:
        runner: of a bundle for text generation.
        prompt_ids: integers, shape (n,).
        settings: greedy if None.
        adapter: as in ``Runner.run``.

    Raises:
        InvalidBundle: the bundle is for another task.
        InvalidData: a prompt without a token, or one that leaves no room for an answer.
    """
    if not decodes(runner.bundle.manifest):
        bundle = runner.bundle
        raise InvalidBundle(
            f"{bundle.root}: is a bundle for {bundle.manifest.task.name}; it keeps no cache to write tokens with"
        )
    prompt: IntArray = np.asarray(prompt_ids, np.int64).reshape(-1)
    limit = runner.bundle.text.max_length
    if not len(prompt):
        raise InvalidData("the prompt is empty: it has no token to continue from")
    if len(prompt) >= limit:
        raise InvalidData(
            f"the prompt has {len(prompt)} tokens, and this model takes {limit}, its answer included; shorten it"
        )
    # A function of its own, so that what is wrong with the prompt is raised here and not at the first token.
    return _tokens(runner, prompt, settings or GenerationSettings(), adapter)


def stream_text(ids: Iterable[int], tokenizer: "tokenizers.Tokenizer") -> Iterator[str]:
    """Decode tokens as they come, special ones left out; no piece ends within a character.

    A token is decoded together with those before it back to the last but one piece, because decoders treat the
    beginning of a text in their own ways (a leading space, say); what they add to the earlier text is the new piece.
    """
    held: list[int] = []
    known = 0  # tokens of ``held`` whose text has been given out
    for token in ids:
        held.append(token)
        before, whole = tokenizer.decode(held[:known]), tokenizer.decode(held)
        if len(whole) > len(before) and not whole.endswith(_UNFINISHED):
            yield whole[len(before) :]
            held, known = held[known:], len(held) - known
    rest = tokenizer.decode(held)[len(tokenizer.decode(held[:known])) :]
    if rest:
        yield rest


def chat(
    runner: Runner,
    prompt: str | Sequence[Message],
    *,
    settings: GenerationSettings | None = None,
    adapter: LoadedAdapter | None = None,
    raw: bool = False,
) -> Iterator[str]:
    """Answer a prompt, in pieces of text as they are written.

    Args:
        runner: of a bundle for text generation.
        prompt: a conversation; or a string, which is the user's turn where the model has a chat template.
        settings: greedy if None.
        adapter: as in ``Runner.run``.
        raw: continue a string as it stands, without the chat template.

    Raises:
        InvalidBundle: the bundle is for another task.
        InvalidData: a prompt that is too long, or that the chat template refuses; messages without a template.
    """
    text = runner.bundle.text
    spec = dataclasses.replace(text, chat_template=None) if raw else text
    ids = encode_prompt(prompt, runner.tokenizer, spec)
    return stream_text(generate(runner, ids, settings=settings, adapter=adapter), runner.tokenizer)


def _tokens(
    runner: Runner, prompt: IntArray, settings: GenerationSettings, adapter: LoadedAdapter | None
) -> Iterator[int]:
    text = runner.bundle.text
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    cache = _empty_cache(runner.graph)
    seen = set(prompt.tolist())
    unread, place = prompt, 0
    for _ in range(min(settings.max_new_tokens, text.max_length - len(prompt))):
        logits = _read(runner, unread, place, cache, adapter)
        token = _choose(penalize(logits, seen, settings.repetition_penalty), settings, rng)
        if token in text.stop_token_ids:
            return
        yield token
        seen.add(token)
        unread, place = np.array([token], np.int64), place + len(unread)


def _choose(logits: npt.NDArray[np.float64], settings: GenerationSettings, rng: np.random.Generator) -> int:
    if settings.temperature == 0:
        return likeliest(logits)
    probabilities = token_probabilities(
        logits, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
    )
    return draw(probabilities, rng)


def _empty_cache(graph: GraphSpec) -> Arrays:
    """Return the cache before the first token, by input name: arrays whose past has length 0."""
    cache: Arrays = {}
    for spec in graph.inputs:
        if spec.name.startswith(PAST):
            batch, heads, _, head_size = spec.shape
            assert isinstance(heads, int)
            assert isinstance(head_size, int)
            cache[spec.name] = np.zeros((batch if isinstance(batch, int) else 1, heads, 0, head_size), spec.dtype)
    return cache


def _read(
    runner: Runner, ids: IntArray, place: int, cache: Arrays, adapter: LoadedAdapter | None
) -> npt.NDArray[np.float32]:
    """Run tokens, whose first stands at ``place`` of the text, and return the logits after the last one.

    Their keys and values are added to the cache. It goes in and comes out as arrays: handing it on as OrtValues,
    without copies, was measured with SmolLM2 at 700 tokens and brought nothing with ONNX Runtime 1.31 and 8 % with
    1.16, for the graph itself copies the cache to append to it.

    Returns:
        float32, shape (vocabulary,).
    """
    wanted = {spec.name for spec in runner.graph.inputs}
    for piece in np.split(ids, range(PROMPT_TOKENS_AT_ONCE, len(ids), PROMPT_TOKENS_AT_ONCE)):
        end = place + len(piece)
        feeds: Arrays = {
            "input_ids": piece[None],
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(place, end, dtype=np.int64)[None],
        }
        outputs = runner.run({**{name: feeds[name] for name in feeds if name in wanted}, **cache}, adapter)
        for name in cache:
            cache[name] = outputs[name.replace(PAST, PRESENT)]
        place = end
    last: npt.NDArray[np.float32] = outputs["logits"][0, -1]
    return last
