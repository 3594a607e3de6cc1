"""What holds of every plan and every batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from builders import tensor_spec
from fieldtune.bundle.manifest import TensorSpec
from fieldtune.data.batches import batch_of, plan_epoch, plan_evaluation
from fieldtune.data.dialogue import cut
from fieldtune.data.examples import Encoded, EncodedSet

LENGTHS = st.lists(st.integers(1, 500), max_size=300)
SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**40)
IDS = st.lists(st.integers(0, 50), min_size=1, max_size=12)


def inputs(*labels: int | str, shape: tuple[int | str, int | str], pad: int = 0) -> tuple[TensorSpec, ...]:
    """What a graph takes whose labels have a shape of their own."""
    beside = [tensor_spec(name, *shape, dtype="int64") for name in ("attention_mask", "token_type_ids")]
    ids = tensor_spec("input_ids", *shape, dtype="int64", pad=pad)
    return (ids, *beside, tensor_spec("labels", *labels, dtype="int64", pad=-100))


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 5), st.booleans())
def test_an_epoch_holds_every_example_once(lengths: list[int], size: int, seed: int, epoch: int, group: bool) -> None:
    plan = plan_epoch(lengths, size, seed, epoch, group_by_length=group)
    assert sorted(index for batch in plan for index in batch.tolist()) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in plan) <= 1
    assert all(1 <= len(batch) <= size for batch in plan)


@given(LENGTHS, SIZES)
def test_an_evaluation_holds_every_example_once_by_length(lengths: list[int], size: int) -> None:
    order = [index for batch in plan_evaluation(lengths, size) for index in batch.tolist()]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)


@given(st.lists(st.integers(1, 500), min_size=30, max_size=60), SEEDS, st.booleans())
def test_the_seed_and_the_epoch_decide_the_order(lengths: list[int], seed: int, group: bool) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in plan_epoch(lengths, 2, seed, epoch, group_by_length=group)]

    assert order(seed, 0) == order(seed, 0)
    # 15 batches or more: that two shuffles agree by chance is as likely as one in 15!.
    assert order(seed, 0) != order(seed, 1)
    assert order(seed, 0) != order(seed + 1, 0)


@st.composite
def texts(draw: st.DrawFn) -> list[Encoded]:
    encoded = []
    for ids in draw(st.lists(IDS, min_size=1, max_size=6)):
        kept = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        input_ids = np.array(ids, np.int64)
        arrays = {"input_ids": input_ids, "labels": np.where(kept, input_ids, -100)}
        encoded.append(cut(Encoded(arrays=arrays, weight=0, length=len(ids)), len(ids)))
    return encoded


@given(texts(), st.integers(0, 3), st.integers(0, 5), st.booleans(), st.integers(0, 50))
def test_texts_come_back_from_a_batch(
    examples: list[Encoded], more_rows: int, more_tokens: int, static: bool, pad: int
) -> None:
    longest = max(example.length for example in examples)
    shape = (len(examples) + more_rows, longest + more_tokens) if static else ("batch", "sequence")
    batch = batch_of(examples, range(len(examples)), inputs(*shape, shape=shape, pad=pad))
    assert {array.shape for array in batch.values()} == {shape if static else (len(examples), longest)}
    mask = batch["attention_mask"].astype(bool)
    assert mask.any(axis=1).all(), "a row that attends to nothing would not be a number"
    assert (batch["labels"][~mask] == -100).all(), "padding never carries a label"
    assert (batch["input_ids"][~mask] == pad).all()
    assert (batch["labels"][len(examples) :] == -100).all(), "nor does a padding row"
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(batch["input_ids"][row][mask[row]], example.arrays["input_ids"])
        np.testing.assert_array_equal(batch["labels"][row][mask[row]], example.arrays["labels"])
    weight = EncodedSet(examples=tuple(examples)).weight(range(len(examples)))
    assert weight == np.count_nonzero(batch["labels"][:, 1:] != -100)


@given(st.lists(st.tuples(IDS, st.integers(-1, 3)), min_size=1, max_size=6), st.integers(0, 3))
def test_classes_come_back_from_a_batch(pairs: list[tuple[list[int], int]], more_rows: int) -> None:
    labels = [-100 if label < 0 else label for _, label in pairs]
    examples = [
        Encoded(
            arrays={"input_ids": np.array(ids, np.int64), "labels": np.array(label, np.int64)},
            weight=0 if label < 0 else 1,
            length=len(ids),
        )
        for (ids, _), label in zip(pairs, labels, strict=True)
    ]
    rows = len(pairs) + more_rows
    batch = batch_of(examples, range(len(pairs)), inputs(rows, shape=(rows, 12)))
    assert batch["labels"].tolist() == labels + [-100] * more_rows
    assert batch["attention_mask"].sum(axis=1).tolist() == [len(ids) for ids, _ in pairs] + [1] * more_rows
    weight = EncodedSet(examples=tuple(examples)).weight(range(len(pairs)))
    assert weight == np.count_nonzero(batch["labels"] != -100)
