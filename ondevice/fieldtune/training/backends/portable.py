"""The portable backend: gradients from gradient.onnx on stock ONNX Runtime, updates in NumPy."""

import math
from collections.abc import Mapping

import numpy as np

from fieldtune.adapters import from_theta, read_adapter
from fieldtune.bundle import WHOLE_GRAPHS, Batch, Bundle, FloatArray
from fieldtune.placement import open_graph
from fieldtune.runtime import ProviderChoice, run_session
from fieldtune.training.backends.interface import Sums
from fieldtune.training.backends.optimizers import OptimizerConfig, State, clip_gradient, new_optimizer
from fieldtune.training.evaluation import Evaluated, EvaluationGraph, Forward


class PortableBackend:
    """A TrainingBackend that needs no training build of ONNX Runtime.

    Args:
        bundle: with a gradient graph.
        choice: the provider of its session.
        theta: where to start, float32, shape ``(size,)``.
        optimizer: its settings.
        max_grad_norm: what the mean gradient is clipped to; 0 for no clipping.
        graphs: gradient and eval → the graph that is opened for it.

    Raises:
        InvalidBundle: if ONNX Runtime cannot load the graph.
        ProviderUnavailable: if the provider cannot take it.
        PlacementRefused: if the provider runs less of it than the profile demands.
    """

    name = "portable"

    def __init__(
        self,
        bundle: Bundle,
        choice: ProviderChoice,
        theta: FloatArray,
        optimizer: OptimizerConfig,
        max_grad_norm: float,
        graphs: Mapping[str, str] = WHOLE_GRAPHS,
    ) -> None:
        self._bundle, self._choice, self._graphs = bundle, choice, graphs
        self._session, self.placement = open_graph(bundle, graphs["gradient"], choice)
        self._optimizer = new_optimizer(optimizer, bundle.manifest.layout.decay_mask())
        self._max_norm = max_grad_norm or math.inf
        self._theta = theta.copy()
        # The step goes into a second vector, which then takes the first one's place: an interrupt at any moment
        # leaves a whole theta.
        self._next = np.empty_like(theta)
        self._gradient = np.zeros_like(theta)
        self._weight = 0.0
        self._evaluation: EvaluationGraph | None = None
        self._forward: Forward | None = None

    def accumulate(self, batch: Batch, weight: float) -> Sums:
        """Run one microbatch and add its summed gradient and weight to what is held."""
        outputs = ("loss_sum", "weight", "grad_sum")
        loss, counted, gradient = run_session(self._session, outputs, {**batch, "theta": self._theta})
        self._gradient += gradient
        self._weight += float(counted)
        return Sums(float(loss), float(counted))

    def update(self, learning_rate: float) -> float:
        """Divide by the weight, clip, take one optimizer step; return the gradient's norm before clipping."""
        if not self._weight:
            raise ValueError("no label has been accumulated; there is nothing to divide by")
        self._gradient /= self._weight
        norm = clip_gradient(self._gradient, self._max_norm)
        if math.isfinite(norm):
            np.copyto(self._next, self._theta)
            # What overflows here gives a loss that is not a number, which the loop finds and reports.
            with np.errstate(over="ignore", invalid="ignore"):
                self._optimizer.step(self._next, self._gradient, learning_rate)
            self._theta, self._next = self._next, self._theta
            self._forward = None
        self._drop()
        return norm

    def evaluate(self, batch: Batch, weight: float) -> Evaluated:
        """Return the summed loss, and what figures are counted from, of the adapter as it is now."""
        if self._forward is None:
            # It is opened when it is first asked for: a run without evaluations needs no memory for it.
            self._evaluation = self._evaluation or EvaluationGraph(self._bundle, self._choice, self._graphs["eval"])
            manifest, initial = self._bundle.manifest, read_adapter(self._bundle.adapter_path)
            self._forward = self._evaluation.forward(
                from_theta(self._theta, manifest, initial, manifest.task.labels, None)
            )
        return self._forward(batch, weight)

    def theta(self) -> FloatArray:
        """Return a copy of the adapter, float32, shape ``(size,)``."""
        return self._theta.copy()

    def load_theta(self, theta: FloatArray) -> None:
        """Take over an adapter, and drop what is held."""
        np.copyto(self._theta, theta)
        self._forward = None
        self._drop()

    def state(self) -> State:
        """Return copies of all that the optimizer needs to continue."""
        return self._optimizer.state()

    def load_state(self, state: State) -> None:
        """Take over what ``state`` returned, and drop what is held."""
        self._optimizer.load_state(state)
        self._drop()

    def _drop(self) -> None:
        self._gradient.fill(0)
        self._weight = 0.0
