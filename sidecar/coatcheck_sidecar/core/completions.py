"""What a model's recorded answer cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens of one model; cached input costs as input if not said."""

    input: float
    output: float
    cached_input: float | None = None
