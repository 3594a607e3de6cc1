"""What holds of every plan and every batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fieldtune.bundle.manifest import TaskSpec, TensorSpec
from fieldtune.data.batches import collate, labelled_count, plan_epoch, plan_evaluation
from fieldtune.data.examples import Encoded

LENGTHS = st.lists(st.integers(1, 500), max_size=300)
SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**40)
IDS = st.lists(st.integers(0, 50), min_size=1, max_size=12)
INPUTS = tuple(
    TensorSpec(name=name, dtype="int64", shape=("batch", "sequence"))
    for name in ("input_ids", "attention_mask", "token_type_ids", "labels")
)


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
        encoded.append(Encoded(input_ids=input_ids, labels=np.where(kept, input_ids, -100)))
    return encoded


@given(texts(), st.integers(0, 3), st.integers(0, 5), st.booleans(), st.integers(0, 50))
def test_texts_come_back_from_a_batch(
    examples: list[Encoded], more_rows: int, more_tokens: int, static: bool, pad: int
) -> None:
    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples) + more_rows, longest + more_tokens) if static else None
    task = TaskSpec(name="text-generation", labels=())
    batch = collate(examples, range(len(examples)), task=task, pad_token_id=pad, shape=shape, inputs=INPUTS)
    assert {array.shape for array in batch.values()} == {shape or (len(examples), longest)}
    mask = batch["attention_mask"].astype(bool)
    assert mask.any(axis=1).all(), "a row that attends to nothing would not be a number"
    assert (batch["labels"][~mask] == -100).all(), "padding never carries a label"
    assert (batch["input_ids"][~mask] == pad).all()
    assert (batch["labels"][len(examples) :] == -100).all(), "nor does a padding row"
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(batch["input_ids"][row][mask[row]], example.input_ids)
        np.testing.assert_array_equal(batch["labels"][row][mask[row]], example.labels)
    assert labelled_count(batch) == sum(int((example.labels[1:] != -100).sum()) for example in examples)


@given(st.lists(st.tuples(IDS, st.integers(-1, 3)), min_size=1, max_size=6), st.integers(0, 3))
def test_classes_come_back_from_a_batch(pairs: list[tuple[list[int], int]], more_rows: int) -> None:
    labels = [-100 if label < 0 else label for _, label in pairs]
    examples = [
        Encoded(input_ids=np.array(ids, np.int64), labels=np.array(label, np.int64))
        for (ids, _), label in zip(pairs, labels, strict=True)
    ]
    task = TaskSpec(name="text-classification", labels=("a", "b", "c", "d"))
    shape = (len(pairs) + more_rows, 12)
    batch = collate(examples, range(len(pairs)), task=task, pad_token_id=0, shape=shape, inputs=INPUTS)
    assert batch["labels"].tolist() == labels + [-100] * more_rows
    assert batch["attention_mask"].sum(axis=1).tolist() == [len(ids) for ids, _ in pairs] + [1] * more_rows
    assert labelled_count(batch) == sum(label >= 0 for label in labels)
