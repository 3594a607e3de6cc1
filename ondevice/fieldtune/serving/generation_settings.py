"""GenerationSettings: how an answer is written. Every default is here and nowhere else; the flags take its docs."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """How an answer is written.

    Raises:
        ValueError: a number that is out of its range, or top_k or top_p where nothing is drawn.
    """

    max_new_tokens: int = 128
    """Tokens after which an answer ends that has not ended by itself."""

    temperature: float = 0.0
    """0 takes the likeliest token each time; above 0 tokens are drawn, and the lower, the more the likely ones."""

    top_k: int | None = None
    """Draw among so many of the likeliest tokens only."""

    top_p: float = 1.0
    """Draw among the fewest tokens whose probabilities reach this sum; 1 is all of them."""

    repetition_penalty: float = 1.0
    """Above 1 makes tokens less likely that the prompt or the answer already has."""

    seed: int = 0
    """Decides what is drawn."""

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("top_k", 1), ("seed", 0), ("temperature", 0)):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} is {value}; expected a number of at least {least}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected above 0 and at most 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; expected above 0, and 1 for none")
        if self.temperature == 0 and (self.top_k is not None or self.top_p < 1):
            raise ValueError("top_k and top_p limit what is drawn, and at temperature 0 nothing is: set one above 0")
