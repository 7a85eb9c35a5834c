"""A stage as a dataset engine wants it: a dict in, dicts out, and every error a row. Knows nothing of the engine.

An error about a clip becomes that clip's row. A wrong setting that only a worker could find travels as a row too, because an
exception in a worker is dropped or ends everything: the driver raises it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from latentsync_ray import errors, filesystems
from latentsync_ray.errors import ConfigError, LatentSyncError, ModelError, NotBegun
from latentsync_ray.stages.failures import Failing
from latentsync_ray.stages.table import STAGES, Call, Settings, Stage, chain
from latentsync_ray.types import Pair, Row

__all__ = ["apply", "attempt", "foreign", "in_time", "raise_settings", "task"]


@lru_cache(maxsize=4)
def _made(names: tuple[str, ...], asked: Settings) -> list[Call]:
    """Stages, made once per worker process: a detector may take longer to load than a clip to read."""
    return [stage.make(asked) for stage in STAGES if stage.name in names]


def in_time(pair: Pair, deadline: float | None) -> Pair:
    """The pair, or after ``deadline`` (seconds since 1970) one that failed with NotBegun."""
    if pair.error_code or deadline is None or time.time() < deadline:
        return pair
    return Pair.of_failed(pair, NotBegun("the time of the run was up before its turn"))


def task(
    group: tuple[Stage, ...], asked: Settings, *, deadline: float | None = None
) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """Light stages as one Ray Data task. Those that take pairs begin none after ``deadline``, see ``in_time``."""
    names = tuple(stage.name for stage in group)

    def call(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        filesystems.configure(asked.storage_options)
        if group[0].takes is Pair:
            row = {**row, **in_time(Pair.from_row(row), deadline).to_row()}
        yield from apply(lambda taken: chain(_made(names, asked), [taken]), row, group[0].takes, group[-1].gives)

    call.__name__ = call.__qualname__ = "_and_".join(names)  # what Ray's dashboard shows
    return call


def apply(stage: Callable[[Any], Any], row: dict[str, Any], takes: type[Row], gives: type[Row]) -> Iterator[dict[str, Any]]:
    """Call a stage on a row of a block, and give rows of the next. Columns that are not ours are carried along."""
    carried = foreign(row, takes)
    for result in attempt(stage, takes.from_row(row), gives):
        yield {**carried, **result.to_row()}


def attempt(stage: Callable[[Any], Any], taken: Row, gives: type[Row]) -> Iterator[Row]:
    """Call a stage on what it takes, and give what it makes of it.

    What carries an error passes by, and errors become such rows: Ray Data would drop them, or end everything.
    """
    if taken.error_code:
        yield gives.of_failed(taken)
        return
    with Failing() as met:
        try:
            results = stage(taken)
            yield from [results] if isinstance(results, Row) else results
        except (ConfigError, ModelError) as error:
            yield replace(gives.of_failed(taken), error_code=type(error).__name__, error=str(error))
    if met.failure:
        yield gives.of_failed(taken, met.failure)


def raise_settings(row: Row) -> None:
    """Raise the ConfigError or ModelError that a worker met."""
    kind = getattr(errors, row.error_code, None) if row.error_code else None
    if isinstance(kind, type) and issubclass(kind, LatentSyncError):
        raise kind(row.error)


def foreign(row: Mapping[str, Any], known: type[Row]) -> dict[str, Any]:
    """Columns of ``row`` that are the user's."""
    names = {field.name for field in fields(known)}
    return {name: value for name, value in row.items() if name not in names}
