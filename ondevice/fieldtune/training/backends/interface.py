"""What the training loop asks of a backend."""

from typing import NamedTuple, Protocol

from fieldtune.bundle import Batch, FloatArray
from fieldtune.placement import PlacementReport
from fieldtune.training.backends.optimizers import State
from fieldtune.training.evaluation import Evaluated


class Sums(NamedTuple):
    """The summed loss of a microbatch, and the number of labels that it was summed over."""

    loss: float
    weight: float


class TrainingBackend(Protocol):
    """Holds theta, the optimizer, and the gradient that has been summed since the last update."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def placement(self) -> PlacementReport | None:
        """Where the gradient graph runs, as it was read back; None on the CPU."""

    def accumulate(self, batch: Batch, weight: float) -> Sums:
        """Run one microbatch and add its summed gradient and weight to what is held.

        Args:
            batch: its arrays.
            weight: of its examples, as their task has set it; above 0.

        Raises:
            FieldtuneError: if the runtime fails.
        """

    def update(self, learning_rate: float) -> float:
        """Divide the held gradient by the held weight, clip it, take one optimizer step, and hold nothing any more.

        Returns:
            The Euclidean norm before clipping. Where it is not finite, theta and the optimizer stay as they are.

        Raises:
            ValueError: if the held weight is 0.
        """

    def evaluate(self, batch: Batch, weight: float) -> Evaluated:
        """Run one batch forward with the adapter as it is now; what is held stays.

        Args:
            batch: its arrays.
            weight: of its examples; above 0.

        Raises:
            FieldtuneError: if the runtime fails.
        """

    def theta(self) -> FloatArray:
        """Return a copy of the adapter, float32, shape ``(size,)``."""

    def load_theta(self, theta: FloatArray) -> None:
        """Take over an adapter, and drop what is held."""

    def state(self) -> State:
        """Return copies of all that the optimizer needs to continue, for a checkpoint."""

    def load_state(self, state: State) -> None:
        """Take over what ``state`` returned, and drop what is held.

        Raises:
            CheckpointError: if it is not this optimizer's; every fault is listed.
        """
