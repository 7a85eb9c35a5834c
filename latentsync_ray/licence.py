"""On which terms models and detectors are published."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Licence"]


@dataclass(frozen=True)
class Licence:
    """The terms of a part of a model, or of a detector."""

    part: str
    terms: str
    """As its publisher calls them, or "unknown"."""
    stated_at: str
    note: str = ""
    """How sure that is; empty: read there."""
