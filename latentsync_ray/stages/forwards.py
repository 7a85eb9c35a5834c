"""Full forwards: windows of whatever segments and clips are at hand share the model's calls, which have one fixed shape.

Several threads may ask at once: while one of them waits for the device, the others prepare their windows and put away what they
got. Whoever has the device takes the windows that wait longest, its own or others'. A window's bits do not depend on its
neighbours: only on the shape, which never changes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentsync_ray.stages.clock import NOTHING, Clock, Spent

__all__ = ["Drawn", "Forwards", "Window"]


@dataclass(eq=False, slots=True)
class Window:
    """A window that waits for its faces."""

    faces: Callable[[], np.ndarray]
    """Gives what is filmed, uint8 (W, R, R, 3), when its turn has come."""
    speech: Any
    """What is said, a tensor (W, ...)."""
    asked: tuple[Any, ...]
    """Settings of the call; windows of others do not fit into it."""
    made: np.ndarray | None = None
    """uint8 (W, R, R, 3)."""
    failure: Exception | None = None
    """Why there is none."""
    spent: Spent = NOTHING
    """Its share of the call."""
    spared: int = 0
    """Operations that it did not need, since the model knew their results."""
    caller: object = None
    """Whose it is."""
    alone: bool = False
    """Whether only windows of the same caller may be beside it."""

    @property
    def done(self) -> bool:
        return self.made is not None or self.failure is not None

    def goes_with(self, first: Window) -> bool:
        """Whether both may be in one call."""
        return self.asked == first.asked and (self.caller is first.caller or not (self.alone or first.alone))


Drawn = tuple[Sequence[np.ndarray | Exception], Sequence[int]]
"""Of each window of a call what was made, or why it was not, and the operations that it was spared."""


class Forwards:
    """``forwards(windows)`` yields them one by one as they are made, in their order.

    ``draw(faces, speech, asked)`` is the model's call for ``size`` windows: of each uint8 (W, R, R, 3), or why there is none,
    and the operations that it was spared. What it raises, the caller raises whose windows it was given; if they were of
    several, it is asked again for each of them.
    """

    def __init__(self, draw: Callable[[np.ndarray, Any, tuple[Any, ...]], Drawn], size: int) -> None:
        self._draw, self._size = draw, size
        self._waiting: deque[Window] = deque()
        self._changed, self._taken = threading.Condition(), False
        self.clock = Clock()

    def __call__(self, windows: Sequence[Window]) -> Iterator[Window]:
        caller = object()
        for window in windows:
            window.caller = caller
        with self._changed:
            self._waiting.extend(windows)
        try:
            for window in windows:
                while self._has_to_draw(window):
                    try:
                        self._forward()
                    finally:
                        self._leave()
                if window.failure is not None:
                    raise window.failure
                yield window
        finally:  # of an error, or a caller that has enough
            with self._changed:
                self._drop(windows)

    @contextmanager
    def device(self) -> Iterator[Callable[[], Spent]]:
        """The device for anything else, when it is free; what is given tells afterwards how long it worked."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken)
            self._taken = True
        try:
            with self.clock.work() as spent:
                yield spent
        finally:
            self._leave()

    def _has_to_draw(self, window: Window) -> bool:
        """Wait until a window is made or the device is free, which is the caller's then."""
        with self._changed:
            self._changed.wait_for(lambda: window.done or not self._taken)
            if window.done:
                return False
            self._taken = True
            return True

    def _leave(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def _forward(self) -> None:
        """One call for the windows that wait longest, and whatever fits beside the first of them."""
        import torch

        with self._changed:
            first = self._waiting[0]
            batch = [window for window in self._waiting if window.goes_with(first)][: self._size]
            self._drop(batch)
        padded = batch + batch[-1:] * (self._size - len(batch))
        made: Sequence[np.ndarray | Exception] = ()
        spared: Sequence[int] = [0] * len(batch)
        try:
            faces, speech = np.stack([window.faces() for window in padded]), torch.stack([window.speech for window in padded])
            with self.clock.work() as spent:
                made, spared = self._draw(faces, speech, first.asked)
        except Exception as error:  # noqa: BLE001 - raised in the thread of its caller
            if all(window.caller is first.caller for window in batch):
                made = [error] * len(batch)
            spent = Spent
        finally:
            if not made:  # nobody knows whose fault it is: the next calls are for one caller each
                with self._changed:
                    for window in batch:
                        window.alone = True
                    self._waiting.extendleft(reversed(batch))
        with self._changed:
            for window, new, less in zip(batch, made, spared, strict=False):  # what filled it up is left
                window.spent, window.spared = spent() / len(batch), less
                window.made, window.failure = (None, new) if isinstance(new, Exception) else (new, None)

    def _drop(self, windows: Sequence[Window]) -> None:
        """Let them wait no longer. The queue has to be locked."""
        dropped = set(windows)
        self._waiting = deque(window for window in self._waiting if window not in dropped)
