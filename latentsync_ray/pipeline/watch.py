"""What Ray Data's operators have in work, as its scheduler sees it: asked of no worker, and right when one has died."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ray.data import Dataset

from latentsync_ray.pipeline.steady import operators as stage_operators

__all__ = ["Operators", "watched"]

_KEY = "latentsync_ray.watched"
"""Under which a dataset's settings name its ``Operators``."""
_EVERY = 0.5
"""Seconds between two looks: the scheduler takes many steps in one."""
_WATCHED: dict[str, Operators] = {}
"""Ray Data makes its listeners itself, of a class: this is how one finds whom to tell."""


class Operators:
    """How many blocks each stage's operator has in tasks, and waiting before it; a block is a clip or a segment.

    ``tell`` hears of the counts at each look: stage -> (waiting, working), and at the end of none.
    """

    def __init__(self, name: str, tell: Callable[[Mapping[str, tuple[int, int]]], None] = lambda _: None) -> None:
        self.counts: Mapping[str, int] = {}
        """Stage -> both, as of the last look; empty before the first and after the end. Clips that wait to be begun are not
        counted."""
        self._name, self._tell, self._looked = name, tell, 0.0

    def listen(self, dataset: Dataset) -> None:
        """Look at this dataset while it runs; where Ray Data does not tell, nothing is counted."""
        context: Any = dataset.context
        listeners = getattr(context, "custom_execution_callback_classes", None)
        if listeners is not None:
            context.set_config(_KEY, self._name)
            context.custom_execution_callback_classes = [*listeners, _Step]

    def look(self, executor: Any) -> None:
        """Count, unless that was just done."""
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        self._looked, stage = now, None
        waiting, working = Counter[str](), Counter[str]()
        named = stage_operators().items()
        for operator, state in executor._topology.items():  # in the order of the pipeline
            begins = stage is None
            stage = next((name for called, name in named if f"({called})" in operator.name), stage)
            if stage:  # what comes between two stages, such as cutting up their blocks, is the first one's
                working[stage] += operator.num_active_tasks()
                waiting[stage] += 0 if begins else state.total_enqueued_input_blocks()
        self.counts = working + waiting
        self._tell({each: (waiting[each], working[each]) for each in working})


@contextmanager
def watched(tell: Callable[[Mapping[str, tuple[int, int]]], None] = lambda _: None) -> Iterator[Operators]:
    """Somebody to tell, for as long as a dataset runs."""
    name = uuid.uuid4().hex
    operators = _WATCHED[name] = Operators(name, tell)
    try:
        yield operators
    finally:
        del _WATCHED[name]
        operators.counts = {}
        tell({})


class _Step:
    """What Ray Data calls an ExecutionCallback: its scheduler tells it of each step."""

    def before_execution_starts(self, executor: Any) -> None: ...

    def after_execution_succeeds(self, executor: Any) -> None: ...

    def after_execution_fails(self, executor: Any, error: Exception) -> None: ...

    def on_execution_step(self, executor: Any) -> None:
        with suppress(AttributeError):  # a version of Ray Data that is built otherwise shall not end a run for this
            if operators := _WATCHED.get(executor._data_context.get_config(_KEY, "")):
                operators.look(executor)
