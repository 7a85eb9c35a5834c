"""A stage as a dataset engine wants it: a dict in, dicts out, and every error a row. Knows nothing of the engine.

An error in a clip's data becomes that clip's row. A wrong setting that only a worker could find, and a bug, travel as rows
too, because an exception in a worker is dropped or ends everything: the driver raises them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache, partial
from typing import Any

from latentsync_ray import errors, redact
from latentsync_ray.errors import ClipError, ConfigError, DeviceLost, LatentSyncError, ModelError
from latentsync_ray.types import Row

__all__ = ["BUG", "Naming", "apply", "attempt", "foreign", "raise_settings", "task"]

BUG = "bug"
"""Error code of rows that met one; never recorded."""


@lru_cache(maxsize=4)
def _made(kind: Callable[..., Any], *settings: Any) -> Callable[[Any], Any]:
    """A stage, made once per worker process: a detector may take longer to load than a clip to read."""
    return kind(*settings)


def task(stage: partial[Any], takes: type[Row], gives: type[Row]) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    """A light stage as a Ray Data task."""

    def call(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from apply(lambda taken: _made(stage.func, *stage.args)(taken), row, takes, gives)

    call.__name__ = call.__qualname__ = stage.func.__name__.strip("_")  # what Ray's dashboard shows
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
    bug = _Bug()
    with bug:
        try:
            results = stage(taken)
            yield from [results] if isinstance(results, Row) else results
        except ClipError as error:
            yield gives.of_failed(taken, error)
        except (ConfigError, ModelError) as error:
            yield replace(gives.of_failed(taken), error_code=type(error).__name__, error=str(error))
    if bug.traceback:
        text = f"while working on clip {taken.clip_id!r}:\n{bug.traceback}"
        yield replace(gives.of_failed(taken), error_code=BUG, error=text)


class Naming:
    """Says, in the traceback of whatever is raised inside, which clip it was about."""

    def __init__(self, clip_id: str) -> None:
        self.clip_id = clip_id

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None:
            error.add_note(f"while working on clip {self.clip_id!r}")


class _Bug:
    """Holds the traceback of an exception that is nobody's clip's fault, so that it can travel to the driver and be raised."""

    traceback = ""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None or not isinstance(error, Exception) or isinstance(error, DeviceLost):
            return False
        self.traceback = redact.traceback_of(error)
        return True


def raise_settings(row: Row) -> None:
    """Raise the ConfigError or ModelError that a worker met."""
    kind = getattr(errors, row.error_code, None) if row.error_code else None
    if isinstance(kind, type) and issubclass(kind, LatentSyncError):
        raise kind(row.error)


def foreign(row: Mapping[str, Any], known: type[Row]) -> dict[str, Any]:
    """Columns of ``row`` that are the user's."""
    names = {field.name for field in fields(known)}
    return {name: value for name, value in row.items() if name not in names}
