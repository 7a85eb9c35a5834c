"""From an error to a clip's record: the one place that says what an exception means for a clip."""

from __future__ import annotations

import dataclasses as dc
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self

from latentsync_ray import __version__, redact
from latentsync_ray.disk import full, is_full
from latentsync_ray.errors import ClipError, InternalError, LatentSyncError, OutOfMemory
from latentsync_ray.recipe import Recipe, own_settings
from latentsync_ray.types import ClipRecord, Pair, Row

__all__ = ["Failing", "bug", "failed_record", "failure_of", "provenance", "sources", "telling"]

_ASKED = {field.name for field in dc.fields(Pair)}
_MADE_OF = ("settings", "video_version", "audio_version", "video_sha256", "audio_sha256")
_TRIED = ("attempts", "seed", "guidance_scale")
_TRACEBACK = 2000
"""Characters of a traceback's end that a record keeps."""
_REASON = 500
"""Characters of its first line."""


def failure_of(error: Exception) -> ClipError:
    """What an error met in a stage means for the clip that was worked on.

    Raises the error again when it is not about that clip alone: a ConfigError, a ModelError or a DeviceLost.
    """
    if isinstance(error, ClipError):
        return error
    if isinstance(error, LatentSyncError):
        raise error
    if isinstance(error, MemoryError):
        return OutOfMemory(
            f"this machine's memory did not suffice ({str(error) or 'no details'}); give fewer clips at once to it"
        )
    if is_full(error):
        return full(getattr(error, "filename", None) or tempfile.gettempdir(), error)
    return bug(f"{type(error).__name__}: {error}", redact.traceback_of(error))


def bug(reason: str, trace: str) -> InternalError:
    """A bug as a clip's failure: its first line is the reason, the end of the traceback follows."""
    return InternalError(f"{reason.splitlines()[0][:_REASON]} (a bug; please report it)\n{_end(trace.rstrip())}")


class Failing:
    """``with Failing() as met``: an error in there that is about the clip is ``met.failure`` afterwards; others pass."""

    failure: ClipError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, Exception):
            return False
        try:
            self.failure = failure_of(error)
        except LatentSyncError:
            return False
        return True


@contextmanager
def telling(learned: Mapping[str, object]) -> Iterator[None]:
    """Meanwhile, an error about the clip takes ``learned`` along: columns of its record, name -> text."""
    try:
        yield
    except ClipError as error:
        error.learned = learned
        raise


def _end(trace: str) -> str:
    """The last whole lines of a traceback, or as much of a line that is too long."""
    if len(trace) <= _TRACEBACK:
        return trace
    cut = trace.find("\n", len(trace) - _TRACEBACK)
    return "..." + trace[cut if cut >= 0 else -_TRACEBACK :]


def failed_record(row: Row, recipe: Recipe, error: ClipError | None = None) -> ClipRecord:
    """The record of a clip that failed with ``error``, or with the one that its row carries: what was asked, and why not."""
    failed = Pair.of_failed(row, error)
    asked = {name: value for name, value in failed.to_row().items() if name in _ASKED}
    learned = error.learned if error else {}
    made_of = {name: getattr(row, name, None) or learned.get(name) for name in _MADE_OF}
    made_of["settings"] = made_of["settings"] or own_settings(failed)
    made_of |= {name: learned[name] for name in _TRIED if name in learned}
    return ClipRecord.from_row({**asked, **sources(row), **made_of, "status": "failed", **provenance(recipe)})


def sources(row: Row) -> dict[str, str | None]:
    """The addresses that a row came with, as a record may keep them: whoever reads the table must not get at what they open."""
    consent = getattr(row, "consent", None)
    addresses = {name: redact.shown(getattr(row, name)) for name in ("video", "audio")}
    return {**addresses, "consent": consent and redact.text(consent)}


def provenance(recipe: Recipe) -> dict[str, Any]:
    """What every record says of how its clip was made, or tried."""
    return {
        "steps": recipe.steps,
        "cache_interval": recipe.cache_interval,
        "model": redact.shown(recipe.model),
        "detector": redact.shown(recipe.detector),
        "recipe": recipe.fingerprint(),
        "version": __version__,
        "finished_at": datetime.now(UTC),
    }
