"""Training backends: what computes gradients and applies them, behind one interface."""

from typing import Literal, TypeAlias

Backend: TypeAlias = Literal["auto", "portable", "ort-training"]
"""What can be asked for; ``auto`` decides by what is installed and what the bundle holds."""
