"""Keeps a long run on Ray Data small: few blocks wait between two stages, and what it notes of finished ones is dropped.

Ray Data bounds the bytes that wait, not the blocks. Ours are small until frames are cut out, so that all clips would be begun
long before the model gets to them: 6 KB of the driver's memory each, and a run whose time is up would have no end in sight.
The hook is meant for developers of Ray Data; where it is built otherwise, memory grows, and that is all.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from ray.data import DataContext

from latentsync_ray.pipeline.turns import Turns, take_turns
from latentsync_ray.stages.table import Stage, tasks

_ray: Any = None
with suppress(ImportError):
    from ray.data._internal.execution import backpressure_policy as _ray
_Policy: Any = getattr(_ray, "BackpressurePolicy", object)

__all__ = ["operators", "steady"]

log = logging.getLogger(__name__)

_FEWEST = 64
"""Blocks that may wait before any stage, or clips where they take turns; before one with many tasks, two for each."""
_MOST = 4096
"""Blocks of clips that take turns."""
_CUT = "StreamingRepartition"
"""What Ray Data calls an operator that makes blocks of one row."""


def operators() -> dict[str, str]:
    """What Ray Data calls a stage's operator -> the name of the stage; of stages that share a task, that of the last."""
    return {name: group[-1].name for name, group in _groups().items()}


def _groups() -> dict[str, tuple[Stage, ...]]:
    return {"_ModelWorker" if group[-1].model else "_and_".join(stage.name for stage in group): group for group in tasks()}


def steady(context: DataContext) -> None:
    """Have a dataset of our stages run so. Steps that are the user's run as they always do."""
    theirs = getattr(_ray, "ENABLED_BACKPRESSURE_POLICIES", None)
    if not theirs:
        log.debug("this version of Ray Data takes no policy of ours: memory grows with the number of clips")
        return
    key: str = _ray.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
    context.set_config(key, [*context.get_config(key, theirs), _FewWaiting])


class _FewWaiting(_Policy):
    """No new task for an operator while enough blocks wait before the next, if that is ours."""

    def __init__(self, context: DataContext, topology: Any, *others: Any) -> None:
        super().__init__(context, topology, *others)
        self._turns: dict[Any, Turns | None] = {}
        for operator in topology:
            if _fans_out(operator) or (_CUT in operator.name and any(map(_fans_out, operator.input_dependencies))):
                self._turns |= {after: take_turns(topology[after]) for after in operator.output_dependencies}

    def can_add_input(self, op: Any) -> bool:
        with suppress(AttributeError, KeyError):
            if _is_ours(op):
                op._output_blocks_stats.clear()
            return all(self._wants_more(after) for after in op.output_dependencies if _is_ours(after))
        return True

    def _wants_more(self, operator: Any) -> bool:
        waiting = self._topology[operator].total_enqueued_input_blocks()
        if (turns := self._turns.get(operator)) and len(turns) < _MOST:
            waiting += turns.clips - len(turns)
        return waiting < max(_FEWEST, 2 * operator.num_active_tasks())


def _fans_out(operator: Any) -> bool:
    return any(f"({name})" in operator.name for name, stages in _groups().items() if stages[-1].fans_out)


def _is_ours(operator: Any) -> bool:
    """Or cuts up blocks for those that are."""
    return any(name in operator.name for name in (_CUT, "(_one_by_one)", *(f"({name})" for name in operators())))
