"""A take whose frames are rendered once, however often a test asks for them."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from latentsync_ray.nano.evaluate import Take

__all__ = ["Rendered"]


class Rendered(Take):
    """A take that keeps its frames."""

    @classmethod
    def of(cls, take: Take) -> Rendered:
        return cls(**{field.name: getattr(take, field.name) for field in dc.fields(take)})

    @cached_property
    def _source(self) -> list[np.ndarray]:
        return list(super().source())

    @cached_property
    def _truth(self) -> list[np.ndarray]:
        return list(super().truth())

    def source(self) -> Iterator[np.ndarray]:
        return iter(self._source)

    def truth(self) -> Iterator[np.ndarray]:
        return iter(self._truth)
