"""Text generation: next-token cross-entropy over the positions that carry a label, served with a key-value cache.

Input and output names are those of optimum and onnxruntime-genai.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fieldtune.bundle import IGNORE_INDEX, ImageSpec, Manifest
from fieldtune.errors import UnsupportedModel
from fieldtune_offline.losses.head import FrozenHead, frozen_head
from fieldtune_offline.tasks.interface import GRADIENT, Arrays, Batch, Part, Task, Traceable, masked_text

_GRID = ("batch", "sequence")
_TRAINING_INPUTS = (("input_ids", _GRID), ("attention_mask", _GRID), ("labels", _GRID))
_PAST_AXES = ("batch", None, "past_sequence", None)


class _Loss(nn.Module):
    """The loss over labelled positions only.

    The head is the dearest product of a small language model with a large vocabulary, and prompt tokens need none:
    a hook in front of it keeps the hidden states at positions that carry a label. Where the head is frozen and its
    logits are the model's own, they are computed a chunk of positions at a time.
    """

    def __init__(self, model: Any, frozen: FrozenHead | None, *, with_correct: bool) -> None:
        super().__init__()
        self.model = model
        self.with_correct = with_correct
        self._positions: torch.Tensor | None = None
        head = model.get_output_embeddings()
        if head is None:
            raise UnsupportedModel(f"{type(model).__name__}: has no output embeddings to compute logits with")
        self._head = [head]  # in a list, so that it is no second path to the same weights
        self._frozen = frozen

    def _labelled(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        assert self._positions is not None
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions), *inputs[1:])

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        # Position t predicts the label at t + 1; the last one predicts nothing.
        following = nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:].reshape(-1)
        labelled = following != IGNORE_INDEX
        positions = torch.nonzero(labelled).squeeze(1)
        torch._check(positions.shape[0] <= following.shape[0])  # type: ignore[no-untyped-call]
        # One row more, which does not count: ONNX Runtime before 1.17 multiplies and sums no matrix without rows.
        self._positions = torch.cat([positions, positions.new_zeros(1)])
        targets = torch.cat([following.index_select(0, positions), following.new_full((1,), IGNORE_INDEX)])
        weight = labelled.sum().to(torch.float32)
        hook = self._head[0].register_forward_pre_hook(self._labelled)
        try:
            loss_sum, correct = self._sums(input_ids, attention_mask, targets)
        finally:
            hook.remove()
        return (loss_sum, weight, correct) if self.with_correct else (loss_sum, weight)

    def _sums(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._frozen is not None:
            with self._frozen.passed_over():
                hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            return self._frozen.sums(hidden, targets)
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        loss_sum = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        return loss_sum, (logits.argmax(-1) == targets).sum().to(torch.float32)


class _Decoder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._cache_name = cache_parameter(model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache

        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{self._cache_name: DynamicCache(past)},
        )
        present = [tensor for layer in cache_layers(result) for tensor in (layer.keys, layer.values)]
        return (result.logits, *present)


class TextGeneration(Task):
    """The task around an adapted AutoModelForCausalLM."""

    name = "text-generation"
    peft_type = "CAUSAL_LM"
    unsplittable = "decoding on an accelerator would need graphs of its own for the prompt and for one token"

    def __init__(self, model: Any, image: ImageSpec | None = None) -> None:
        super().__init__(model, image)
        self._pasts: dict[tuple[int, int, int], dict[str, torch.Tensor]] = {}
        _check_cache(model)

    def batch(self, batch: int, sequence: int, seed: int) -> dict[str, torch.Tensor]:
        """Return a batch whose prompts (the first third) and padding carry no label."""
        text = masked_text(self._model, batch, sequence, seed)
        labels = text["input_ids"].masked_fill(text["attention_mask"] == 0, IGNORE_INDEX)
        labels[:, : sequence // 3] = IGNORE_INDEX
        return {**text, "labels": labels}

    def graphs(self, batch: int, sequence: int) -> dict[str, Traceable | Part]:
        """Return what trains, what evaluates and what serves.

        ``eval`` has ``correct``, the number of labels that were likeliest; ``infer`` computes ``logits`` and
        ``present.N.key``, ``present.N.value`` from ``past_key_values.N.…``, one token at a time after the prompt, so
        that its sizes always vary.
        """
        labelled, sums, pads = self.batch(batch, sequence, 0), ("loss_sum", "weight"), self._pads()
        head = frozen_head(self._model)
        losses, counts = _Loss(self._model, head, with_correct=False), _Loss(self._model, head, with_correct=True)
        return {
            GRADIENT: Traceable(losses, "model", labelled, _TRAINING_INPUTS, sums, pads),
            "eval": Traceable(counts, "model", labelled, _TRAINING_INPUTS, (*sums, "correct"), pads),
            "infer": self._serving(batch, sequence),
        }

    def inference_batches(self, batch: int, sequence: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a first step without a past, a later one and a single token after a past."""
        yield self._feeds(batch, sequence, past=0, seed=seed)
        yield self._feeds(batch, sequence, past=5, seed=seed + 1)
        yield self._feeds(batch, 1, past=9, seed=seed + 2)

    def inference_reference(self, feeds: Batch) -> dict[str, torch.Tensor]:
        """Return transformers' logits and cache."""
        keys = [name for name in feeds if name.startswith("past_key_values.")]
        past = [(feeds[key], feeds[value]) for key, value in zip(keys[::2], keys[1::2], strict=True)]
        arguments = {name: feeds[name] for name in ("input_ids", "attention_mask", "position_ids")}
        outputs = _Decoder(self._model)(**arguments, past=past)
        names = ["logits", *(name.replace("past_key_values.", "present.") for name in keys)]
        return dict(zip(names, outputs, strict=True))

    def reference_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return transformers' mean loss times the number of predicted labels."""
        weight = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
        return self._model(**batch, use_cache=False).loss * weight, weight

    @classmethod
    def noise_labels(
        cls, rng: np.random.Generator, manifest: Manifest, input_ids: npt.NDArray[np.int64] | None, *, masked: bool
    ) -> Arrays:
        """Return the tokens themselves as labels, but for the first third."""
        assert input_ids is not None
        return {"labels": np.where(np.arange(len(input_ids)) < len(input_ids) // 3, IGNORE_INDEX, input_ids)}

    def _pads(self) -> Mapping[str, int]:
        return {"input_ids": int(self._model.config.pad_token_id), "labels": IGNORE_INDEX}

    def _serving(self, batch: int, sequence: int) -> Traceable:
        feeds = self._feeds(batch, sequence, past=5, seed=0)
        inputs: list[tuple[str, tuple[str | None, ...]]] = [
            ("input_ids", _GRID),
            ("attention_mask", ("batch", "total_sequence")),
            ("position_ids", _GRID),
        ]
        names = [name for name in feeds if name.startswith("past_key_values.")]
        inputs += [(name, _PAST_AXES) for name in names]
        outputs = ["logits", *(name.replace("past_key_values.", "present.") for name in names)]
        arguments = {name: feeds[name] for name, _ in inputs[:3]}
        past = [(feeds[key], feeds[value]) for key, value in zip(names[::2], names[1::2], strict=True)]
        return Traceable(
            _Decoder(self._model), "model", {**arguments, "past": past}, inputs, outputs, self._pads(), varies=True
        )

    def _feeds(self, batch: int, sequence: int, *, past: int, seed: int) -> dict[str, torch.Tensor]:
        text = masked_text(self._model, batch, sequence, seed)
        feeds = {
            "input_ids": text["input_ids"],
            "attention_mask": torch.cat([torch.ones((batch, past), dtype=torch.int64), text["attention_mask"]], 1),
            "position_ids": torch.arange(past, past + sequence).expand(batch, sequence).contiguous(),
        }
        return {**feeds, **self._past(batch, past, seed)}

    def _past(self, batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
        """Return the cache that the model itself has after some tokens; random numbers would be no such state.

        It is computed once, however often it is asked for and whatever the model's weights are by then.
        """
        from transformers import DynamicCache

        if (batch, length, seed) not in self._pasts:
            before = masked_text(self._model, batch, max(length, 1), seed + 100)["input_ids"]
            with torch.no_grad():
                # Without the configuration a cache keeps all of a sliding window's past, as infer.onnx does.
                cache = {cache_parameter(self._model): DynamicCache()}
                result = self._model(input_ids=before, use_cache=True, **cache)
            past = {}
            for number, layer in enumerate(cache_layers(result)):
                past[f"past_key_values.{number}.key"] = layer.keys[:, :, :length].contiguous()
                past[f"past_key_values.{number}.value"] = layer.values[:, :, :length].contiguous()
            self._pasts[batch, length, seed] = past
        return self._pasts[batch, length, seed]


def cache_parameter(model: Any) -> str:
    """Return the name by which a model takes its key-value cache.

    transformers 5.20 calls it ``past_key_values``; its later releases call it ``cache``, warn of the old name and drop
    it with 5.40. A model with code of its own may keep to the old name, so the model is asked, not the release.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's forward passes all names on
    return "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"


def cache_layers(result: Any) -> Any:
    """Return the layers of the key-value cache in a model's result, which has either name; () where it has none."""
    # Fields, not attributes: a result with the new name warns when it is asked for the old one.
    fields = {field.name for field in dataclasses.fields(result)} if dataclasses.is_dataclass(result) else set()
    name = next((name for name in ("cache", "past_key_values") if name in fields), "")
    return getattr(getattr(result, name, None), "layers", None) or ()


def _check_cache(model: Any) -> None:
    with torch.no_grad():
        result = model(input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=True)
    layers = cache_layers(result)
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise UnsupportedModel(f"{type(model).__name__}: keeps no key-value cache with a key and a value per layer")
