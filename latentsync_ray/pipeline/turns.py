"""Clips take turns behind the stage that cuts them into segments: a long clip holds up no others, nor they it.

Ray Data's queue is first in, first out: all the segments of an hour would go before the clips that come after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_ray: Any = None
with suppress(ImportError):
    from ray.data._internal.execution import bundle_queue as _ray
_Queue: Any = getattr(_ray, "BaseBundleQueue", object)

__all__ = ["Turns", "take_turns"]


class Turns(_Queue):
    """Blocks that wait, those of a clip in their order: one of the clip that came first, then one of the clip with the fewest.

    A block's clip is told by the task that made it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clips: dict[int | None, deque[Any]] = {}
        self._others = False
        """Whether it is the turn of another clip than the first."""

    @property
    def clips(self) -> int:
        """How many have blocks here."""
        return len(self._clips)

    def has_next(self) -> bool:
        return bool(self._clips)

    def peek_next(self) -> Any:
        return self._clips[self._next()][0] if self._clips else None

    def clear(self) -> None:
        self._reset_metrics()
        self._clips.clear()

    def __iter__(self) -> Iterator[Any]:
        for blocks in self._clips.values():
            yield from blocks

    def _add_inner(self, bundle: Any, **_: Any) -> None:
        self._clips.setdefault(bundle.metadata[0].exec_stats.task_idx, deque()).append(bundle)

    def _get_next_inner(self) -> Any:
        if not self._clips:
            raise IndexError("nothing waits")
        clip = self._next()
        bundle = self._clips[clip].popleft()
        if not self._clips[clip]:
            del self._clips[clip]
        self._others = not self._others
        return bundle

    def _next(self) -> int | None:
        first, *others = self._clips
        if not self._others or not others:
            return first
        return min(others, key=lambda clip: len(self._clips[clip]))


def take_turns(state: Any) -> Turns | None:
    """Have clips take turns before an operator, which ``state`` is Ray Data's state of; None where it is built otherwise."""
    with suppress(AttributeError, ValueError):
        (queue,) = (each for own in state.input_queues for each in own._queues)
        turns = Turns()
        while queue.has_next():
            turns.add(queue.get_next())
        queue._inner = turns
        return turns
    return None
