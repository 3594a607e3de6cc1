"""What is counted of the examples of a run."""

import numpy as np

from fieldtune.data.examples import Encoded, EncodedSet
from fieldtune.training.records import DataCounts


def test_counts_of_encoded_examples():
    def example(*, truncated):
        return Encoded(arrays={"x": np.zeros(1)}, weight=1.0, truncated=truncated)

    examples = tuple(example(truncated=cut) for cut in (True, False, True))
    encoded = EncodedSet(examples=examples, dropped=4, notes=("1 word is longer than a piece",))
    assert DataCounts.of(encoded) == DataCounts(
        examples=3, truncated=2, dropped=4, notes=("1 word is longer than a piece",)
    )
    assert DataCounts.of(EncodedSet(examples=())) == DataCounts(examples=0, truncated=0, dropped=0)
