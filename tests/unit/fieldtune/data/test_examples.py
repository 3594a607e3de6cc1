import numpy as np

from fieldtune.data.examples import Encoded, EncodedSet


def example(labels: list[int], weight: float, *, truncated: bool = False) -> Encoded:
    arrays = {"input_ids": np.arange(len(labels)), "labels": np.array(labels)}
    return Encoded(arrays=arrays, weight=weight, length=len(labels), truncated=truncated)


def test_the_weight_of_a_batch_is_what_the_task_set() -> None:
    # Two examples of four labels each: a task that predicts every token of them counts eight, one that shifts six.
    every = EncodedSet(examples=(example([5, 6, 7, 8], 4), example([1, 2, 3, 4], 4)))
    assert every.weight([0, 1]) == 8
    shifted = EncodedSet(examples=(example([5, 6, 7, 8], 3), example([1, 2, 3, 4], 3)))
    assert shifted.weight([0, 1]) == 6
    halves = EncodedSet(examples=(example([5], 0.5), example([5], 0), example([5], 2)))
    assert halves.weight(np.array([0, 2])) == 2.5
    assert halves.weight(1) == 0
    assert halves.weight([]) == 0


def test_lengths_and_cuts_are_of_the_examples() -> None:
    found = EncodedSet(examples=(example([5, 6], 1, truncated=True), example([7], 1), example([], 0, truncated=True)))
    assert found.lengths.tolist() == [2, 1, 0]
    assert found.lengths.dtype == np.int64
    assert (found.truncated, found.dropped, found.notes) == (2, 0, ())
    assert Encoded(arrays={}, weight=1).length == 1
