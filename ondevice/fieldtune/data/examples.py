"""What an example is once it is encoded, whatever its task: arrays by the names of a graph's inputs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fieldtune.errors import InvalidData

IntArray: TypeAlias = npt.NDArray[np.int64]


class Example(Protocol):
    """What a row of a file says; each task has kinds of its own."""

    @property
    def where(self) -> str:
        """Its ``file:line``; "" where no file names it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """One example as the graphs take it, without the batch axis.

    Attributes:
        arrays: by the name of the graph's input; pixel_values of uint8, as the file has them: batches give them their
            scale, so that an image needs a quarter of the memory.
        weight: what it adds to the number that the summed loss of a batch is divided by; the task sets it, and 0 is an
            example without a label.
        length: its tokens, by which batches are grouped and the longest are told; 1 for what has none.
        truncated: whether it was longer and had its end cut off.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    weight: float
    length: int = 1
    truncated: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSet:
    """The examples of a file, encoded.

    Attributes:
        examples: in the file's order, all of one kind.
        dropped: how many others are missing because the cut left them without a label.
        notes: what else was done to them, in lines for people.
    """

    examples: tuple[Encoded, ...]
    dropped: int = 0
    notes: tuple[str, ...] = ()

    @property
    def truncated(self) -> int:
        """How many of the examples were longer and had their end cut off."""
        return sum(example.truncated for example in self.examples)

    @property
    def lengths(self) -> IntArray:
        """Tokens of each example, int64, shape (examples,)."""
        return np.array([example.length for example in self.examples], np.int64)

    def weight(self, indices: npt.ArrayLike) -> float:
        """Return what some of the examples add to the number that a summed loss is divided by."""
        return sum(self.examples[int(index)].weight for index in np.atleast_1d(np.asarray(indices)))

    def check_labelled(self, purpose: str) -> None:
        """Refuse examples that all lack a label.

        Args:
            purpose: what labels are needed for, for the message: ``to learn from``.

        Raises:
            InvalidData: none of them has one.
        """
        if not any(example.weight for example in self.examples):
            raise InvalidData(f"none of the {len(self.examples)} example(s) has a label {purpose}")
