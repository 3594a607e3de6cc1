"""The model with its adapter, and where each tensor of the adapter lies in theta."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fieldtune.bundle import Layout


@dataclasses.dataclass(frozen=True, slots=True)
class Adapted:
    """The model with its adapter.

    Attributes:
        model: a peft.PeftModel in evaluation mode; exactly the adapter's parameters require gradients.
        config: PEFT's configuration of it.
        method: name of how it adapts.
        names: PEFT key → the name of the parameter in ``model``.
        layout: where each PEFT tensor lies in theta.
    """

    model: Any
    config: Any
    method: str
    names: Mapping[str, str]
    layout: Layout
