"""How a language model's texts become tensors: from its tokenizer and its configuration."""

from typing import Any

from fieldtune.bundle import TextSpec
from fieldtune.errors import UnsupportedModel


def text_spec(model: Any, tokenizer: Any, name: str, sequence: int | None) -> TextSpec:
    """Return how a model's texts are prepared; the model learns which token pads.

    Args:
        model: of transformers.
        tokenizer: of transformers.
        name: what messages call the model.
        sequence: static length in tokens; None where it may vary.

    Raises:
        UnsupportedModel: a sequence that is longer than the model takes.
    """
    config = model.config
    limits = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    longest = min(int(limit) for limit in limits if limit)
    if sequence is not None and sequence > longest:
        raise UnsupportedModel(f"{name}: takes up to {longest} tokens; a sequence of {sequence} was asked for")
    pad = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    stops = _ids(getattr(generation, "eos_token_id", None)) or _ids(tokenizer.eos_token_id)
    if pad is None:
        pad = stops[0] if stops else 0
    config.pad_token_id = pad
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return TextSpec(
        max_length=sequence or longest,
        pad_token_id=int(pad),
        stop_token_ids=stops,
        special_tokens=special,
        chat_template=template,
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(item) for item in value)
