"""What a row is: declared columns that check themselves, and the way from one noun to the next. See ``types`` for the nouns.

Array columns are declared once (axes, dtype). The declaration checks every row on construction, prints shapes and never pixels,
and builds the empty arrays of failed rows, so that all rows of one kind keep one schema.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from latentsync_ray.arguments import short
from latentsync_ray.errors import ClipError

__all__ = ["LoopMode", "Row", "array"]

LoopMode = Literal["pingpong", "loop"]
"""How the video repeats when the audio is longer: forward-backward-forward, or from the start again."""


def array(axes: str, dtype: type[np.generic]) -> Any:
    """Declare an array column: letters are sizes shared across the row, digits are fixed, e.g. ``array("F S S 3",
    np.uint8)``.
    """
    shape = axes.split()
    empty = np.zeros([int(axis) if axis.isdigit() else 0 for axis in shape], dtype)
    return dc.field(metadata={"axes": shape, "dtype": empty.dtype}, default_factory=lambda: empty)


@dc.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One clip, or one piece of it, on its way. ``error_code`` is None as long as nothing went wrong."""

    clip_id: str
    error_code: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        sizes: dict[str, int] = {}
        for field in dc.fields(self):
            if not field.metadata:
                continue
            value, axes, dtype = getattr(self, field.name), field.metadata["axes"], field.metadata["dtype"]
            where = f"{type(self).__name__}.{field.name} of clip {self.clip_id!r}"
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != len(axes):
                got = f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                raise ValueError(f"{where} is {got}, expected {dtype} with axes {' '.join(axes)}")
            for axis, size in zip(axes, value.shape, strict=True):
                if size != (int(axis) if axis.isdigit() else sizes.setdefault(axis, size)):
                    raise ValueError(f"{where} is {value.shape}, expected axes {' '.join(axes)} with {sizes}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={short(value)}' for name, value in self.to_row().items())})"

    def to_row(self) -> dict[str, Any]:
        """The fields as a flat dict, arrays as they are: one row of a Ray Data block."""
        return {field.name: getattr(self, field.name) for field in dc.fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build from a mapping; columns that are not fields are left out, numpy scalars become Python's."""
        return cls(**{field.name: _plain(row[field.name]) for field in dc.fields(cls) if field.name in row})

    @classmethod
    def of(cls, row: Row, **learned: Any) -> Self:
        """The next noun: everything of ``row`` that it also has, plus what was ``learned``."""
        return cls.from_row({**row.to_row(), **learned})

    @classmethod
    def of_failed(cls, row: Row, error: ClipError | None = None) -> Self:
        """The next noun for a clip that failed: scalars kept, arrays empty, the error noted (the first one stays)."""
        arrays = {field.name for field in dc.fields(cls) if field.metadata}
        kept = {name: value for name, value in row.to_row().items() if name not in arrays}
        if error is not None and not row.error_code:
            kept |= {**error.learned, "error_code": error.code, "error": str(error)}
        return cls.from_row(kept)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
