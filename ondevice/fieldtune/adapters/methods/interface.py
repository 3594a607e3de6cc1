"""A method of adapting, as the device knows it: its settings, its ranks and scales, and what its adapters feed."""

import abc
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from fieldtune.adapters.adapter import Adapter, adapted_modules
from fieldtune.bundle import Bundle, FloatArray, Manifest, ParameterSpec


class Method(abc.ABC):
    """One method. What is not abstract holds for most: no scale, no rank, and inputs as the bundle's layout has them.

    Attributes:
        name: as ``fieldtune-offline build --method`` and the manifest have it.
        title: for people.
        peft_type: as PEFT's adapter_config.json has it; several methods may share one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    peft_type: ClassVar[str]

    def owns(self, config: Mapping[str, Any]) -> bool:
        """Whether an adapter_config.json is one of this method's."""
        return config.get("peft_type") == self.peft_type

    @abc.abstractmethod
    def setting_faults(self, config: Mapping[str, Any]) -> list[str]:
        """Return every setting that makes the forward pass another than the bundle's graphs have, with the reason."""

    @abc.abstractmethod
    def described(self, config: Mapping[str, Any]) -> str:
        """Return the settings that say how strongly it adapts, in one line."""

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that say what is adapted, and how strongly, by the names that people see."""
        return {"targets": config.get("target_modules"), "saved": config.get("modules_to_save")}

    def may_lack(self, config: Mapping[str, Any], parameter: ParameterSpec) -> bool:
        """Whether an adapter with these settings can be served without an optional tensor of the bundle's."""
        return parameter.replaces is not None and config.get("bias") in (None, "none")

    def copies(self, manifest: Manifest) -> frozenset[str]:
        """Return keys under which PEFT may save frozen tensors of the base beside the adapter's."""
        del manifest
        return frozenset()

    def rank_faults(self, adapter: Adapter, modules: Iterable[str]) -> list[str]:
        """Return where an adapter's tensors are of another rank than its settings say."""
        del adapter, modules
        return []

    def training_faults(self, adapter: Adapter, manifest: Manifest) -> list[str]:
        """Return why a bundle cannot train an adapter further that it can serve."""
        del adapter, manifest
        return []

    def scales(self, adapter: Adapter, modules: Iterable[str]) -> dict[str, float]:
        """Return what the scaled tensors of each module are multiplied with.

        Args:
            adapter: the adapter.
            modules: paths as in ``ParameterSpec.module``.

        Raises:
            InvalidAdapter: a setting of another type, or tensors of another rank than the settings say.
        """
        del adapter
        return dict.fromkeys(modules, 1.0)

    def feeds(self, adapter: Adapter, bundle: Bundle, *, least_rank: int = 0) -> dict[str, FloatArray]:
        """Return what eval.onnx and infer.onnx are fed for an adapter that fits: float32 and contiguous, by input name.

        By the facts of the bundle's layout: each tensor is multiplied with its module's scale, padded with zeros to the
        largest rank of all, and transposed. What the adapter lacks of the method's own is zeros; what it lacks of the
        base's is left out, and the graph's default stands.

        Args:
            adapter: the adapter.
            bundle: the bundle, of whose weights no more is read than the method needs.
            least_rank: to pad every pair to, unless the adapter has a larger rank, which it keeps.

        Raises:
            InvalidAdapter: as ``scales``.
        """
        layout, stored = bundle.manifest.layout, adapter.tensors.tensors
        scale = self.scales(adapter, adapted_modules(bundle.manifest))
        ranks = [stored[p.key].shape[p.rank_axis] for p in layout.parameters if p.rank_axis is not None]
        rank = max([*ranks, least_rank])
        inputs: dict[str, FloatArray] = {}
        for p in layout.parameters:
            if p.key not in stored:
                if p.replaces is None:
                    inputs[p.key] = np.zeros(p.shape, np.float32)
                continue
            values = stored[p.key].float32()
            if p.scaled:
                values *= np.float32(scale[p.module])
            inputs[p.key] = _as_fed(values, p, rank)
        return inputs


def _as_fed(values: FloatArray, parameter: ParameterSpec, rank: int) -> FloatArray:
    axis = parameter.rank_axis
    if axis is not None:
        widths = [(0, 0)] * values.ndim
        widths[axis] = (0, rank - values.shape[axis])
        values = np.pad(values, widths)
    return np.ascontiguousarray(values.T) if parameter.transposed else values


def build_again(adapter: Adapter, manifest: Manifest) -> str:
    """Return the advice for an adapter that can be trained further, but not with this bundle."""
    return (
        f"build a bundle from this adapter: fieldtune-offline build {manifest.base.id} --task {manifest.task.name} "
        f"--adapter {adapter.where} --out NEW"
    )


def some(modules: list[str]) -> str:
    """Return the name of a module, or the number of several and the first's."""
    return modules[0] if len(modules) == 1 else f"{len(modules)} modules ({modules[0]}, …)"
