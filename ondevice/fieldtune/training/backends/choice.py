"""Backend choice: what computes gradients and applies them, and why."""

import dataclasses
from collections.abc import Mapping

from fieldtune.bundle import WHOLE_GRAPHS, Bundle, FloatArray
from fieldtune.errors import BackendUnavailable, listed
from fieldtune.hardware import CPU_PROVIDER, Backend, RuntimeFeatures
from fieldtune.runtime import ProviderChoice
from fieldtune.training.backends.interface import TrainingBackend
from fieldtune.training.backends.optimizers import AdamWConfig, OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BackendChoice:
    """The backend that was chosen, and the reason in words."""

    name: str
    reason: str


def choose_backend(
    asked: Backend,
    features: RuntimeFeatures,
    provider: ProviderChoice,
    bundle: Bundle,
    optimizer: OptimizerConfig,
    *,
    target: str = "",
) -> BackendChoice:
    """Choose the training backend; ``auto`` takes the official one where all that it needs is there.

    Args:
        asked: by the user or by the profile.
        features: of the installed ONNX Runtime.
        provider: that was chosen.
        bundle: has the official artifacts, or not.
        optimizer: that is to be used.
        target: the accelerator that runs the frozen prefix, by its compiler's name; "" where there is none.

    Raises:
        BackendUnavailable: ``ort-training`` was asked for and cannot be used; every obstacle is listed.
    """
    if asked == "portable":
        return BackendChoice(name="portable", reason="as asked for")
    obstacles = _obstacles(features, provider, bundle, optimizer, target)
    if asked == "ort-training":
        if obstacles:
            raise BackendUnavailable(
                "the backend ort-training was asked for and cannot be used; take the backend portable or remove what "
                f"is in the way{listed([f'{what}: {remedy}' for what, remedy in obstacles])}"
            )
        return BackendChoice(name="ort-training", reason="as asked for")
    if obstacles:
        return BackendChoice(name="portable", reason=obstacles[0][0])
    if bundle.manifest.split is not None:
        return BackendChoice(name="portable", reason="the bundle is split, and only this backend trains on a split")
    reason = f"ONNX Runtime {features.version} is a training build, and the bundle has artifacts for it"
    return BackendChoice(name="ort-training", reason=reason)


def open_backend(
    name: str,
    bundle: Bundle,
    choice: ProviderChoice,
    theta: FloatArray,
    optimizer: OptimizerConfig,
    max_grad_norm: float,
    graphs: Mapping[str, str] = WHOLE_GRAPHS,
) -> TrainingBackend:
    """Open the backend that was chosen.

    Args:
        name: of a BackendChoice.
        bundle: the bundle.
        choice: the provider, and how sessions are opened.
        theta: where to start, float32, shape ``(size,)``.
        optimizer: its settings.
        max_grad_norm: what the mean gradient is clipped to; 0 for no clipping.
        graphs: of the portable backend: gradient and eval → the graph that is opened for it.

    Raises:
        InvalidBundle: if ONNX Runtime cannot load its graphs.
        ProviderUnavailable: if the provider cannot take them.
    """
    if name == "ort-training":
        from fieldtune.training.backends.ort_training import OrtTrainingBackend

        assert isinstance(optimizer, AdamWConfig)
        return OrtTrainingBackend(bundle, choice, theta, optimizer, max_grad_norm)
    from fieldtune.training.backends.portable import PortableBackend

    return PortableBackend(bundle, choice, theta, optimizer, max_grad_norm, graphs)


def _obstacles(
    features: RuntimeFeatures, provider: ProviderChoice, bundle: Bundle, optimizer: OptimizerConfig, target: str
) -> list[tuple[str, str]]:
    """Return what is in the way of the official backend, each with its remedy."""
    obstacles = []
    if not features.has_training_api:
        remedy = "pip uninstall it, then: pip install 'fieldtune[ort-training]' (x86-64, Python up to 3.12)"
        obstacles.append((f"ONNX Runtime {features.version} is not a training build", remedy))
    if bundle.manifest.ort_training is None:
        remedy = f"on the dev box: fieldtune-offline export-ort {bundle.root}"
        obstacles.append(("the bundle has no official training artifacts", remedy))
    if not isinstance(optimizer, AdamWConfig):
        obstacles.append(("the official artifacts' optimizer is AdamW", "--optimizer adamw"))
    if target:
        remedy = "take a profile without an accelerator"
        obstacles.append((f"the official artifacts hold the whole model, whose frozen prefix {target} runs", remedy))
    if not provider.on_cpu:
        remedy = f"take a profile with the provider {CPU_PROVIDER}"
        obstacles.append((f"the official artifacts run on the CPU, and the provider is {provider.provider}", remedy))
    return obstacles
