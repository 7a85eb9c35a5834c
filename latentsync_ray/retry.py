"""Trying again: which errors of filesystems pass while one waits, and what the others are told as.

Knows errors and the clock; the filesystems themselves are ``storage``'s affair.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from latentsync_ray import redact
from latentsync_ray.disk import full, is_full
from latentsync_ray.errors import ClipError, ConfigError, InputNotFound, StorageUnavailable

__all__ = ["attempt", "attempt_once", "is_outdated", "told_as"]

_T = TypeVar("_T")

_ATTEMPTS, _PATIENCE = 5, 120.0
"""Retries end after so many attempts; of object stores, which may be away for minutes, not before so many seconds either. Web
sites are not waited for: a dataset may have dead ones by the thousand.
"""
_STORE = re.compile(r"(?!(https?|file|local)://)[\w+.-]+(://|::)")
_TRANSPORTS = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3"}
"""Libraries below the filesystems. An error of theirs without an answer from the service is a connection that failed."""
_SET_WRONGLY = {"ConfigNotFound", "ConfigParseError", "InvalidRegionError", "PartialCredentialsError", "ProfileNotFound"}
"""What botocore calls errors of the user's own files."""
_OUTDATED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired", "TokenRefreshRequired"}
"""What S3 says to a session that is over; where an answer has no text (to HEAD), only 400."""
_PERMANENT = {errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSYS, errno.EROFS}


def attempt(
    uri: str,
    action: Callable[[], _T],
    *,
    writing: bool = False,
    once: bool = False,
    disk: str | None = None,
    renew: Callable[[], None] | None = None,
) -> _T:
    """``action()``, again (unless ``once``) while it fails for a passing reason; its errors told as ours.

    ``disk`` is where it writes, when that is not ``uri``. ``renew`` is called before it tries again after a login that was
    refused as outdated.
    """

    def prepare(state: RetryCallState) -> None:
        if renew and state.outcome and is_outdated(state.outcome.exception()):
            renew()

    try:
        patience = _PATIENCE if _STORE.match(uri) else 0.0
        stop = stop_after_attempt(1) if once else partial(_give_up, patience=patience)
        return _RETRYING.copy(stop=stop, before_sleep=prepare)(action)
    except RetryError as ended:
        cause = ended.last_attempt.exception()
        assert cause
        told, shown = told_as(cause), redact.shown(uri)
        said = cause.__cause__ or cause if isinstance(cause, FileNotFoundError) else cause  # http's own has the address only
        reason = redact.text((str(said).strip() or type(said).__name__).splitlines()[0], uri)
        times = ended.last_attempt.attempt_number
        if is_full(cause):
            error = full(disk or shown, cause)
        elif told is StorageUnavailable:
            advice = "; its login is outdated or not valid: renew it" if is_outdated(cause) else ""
            error = StorageUnavailable(f"{shown}: storage failed {times} times, last with: {reason}{advice}")
        elif writing:
            error = ConfigError(f"cannot write {shown}: {reason}; check that the place exists and its permissions")
        else:
            error = InputNotFound(f"{shown} does not exist or may not be read: {reason}")
        raise error from redact.presentable(cause, uri)


def attempt_once(action: Callable[..., _T], *args: Any) -> _T:
    """``action(*args)``; raises RetryError for an error of a filesystem."""
    return _RETRYING.copy(stop=stop_after_attempt(1))(action, *args)


def told_as(error: BaseException | None) -> type[ClipError] | None:
    """What an error of some filesystem means; None when it is not one of storage, but a bug."""
    if is_outdated(error):
        return StorageUnavailable
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return told_as(error.__cause__) or InputNotFound  # fsspec's http calls every failed look-up "not found"
    status = getattr(error, "status", None) or getattr(error, "code", None)  # aiohttp, gcsfs
    if isinstance(status, int) and status >= 400:
        return StorageUnavailable if status in (408, 429) or status >= 500 else InputNotFound
    if isinstance(
        error, ValueError | FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError | NotADirectoryError
    ):
        return InputNotFound
    if isinstance(error, OSError):
        refused = error.errno in _PERMANENT or str(error).startswith("Forbidden")  # the latter is all that gcsfs says
        return InputNotFound if refused else StorageUnavailable
    if type(error).__module__.partition(".")[0] not in _TRANSPORTS:
        return None
    if type(error).__name__ in _SET_WRONGLY:
        return InputNotFound
    answered = getattr(error, "response", None) is not None  # botocore: the service spoke, and s3fs told what it said
    return None if answered else StorageUnavailable


def is_outdated(error: BaseException | None) -> bool:
    """Whether a store refused a login that was good before, or may be good soon: one that is read anew may help."""
    library = type(error).__module__.partition(".")[0]
    if library == "gcsfs" and getattr(error, "code", None) == 401:
        return "Anonymous caller" not in str(error)
    if library == "google":
        return type(error).__name__ == "RefreshError"
    refusal = error if library == "botocore" else getattr(error, "__cause__", None)  # s3fs raises its own from it
    said = getattr(refusal, "response", None)
    code = str(said.get("Error", {}).get("Code")) if isinstance(said, dict) else ""
    return code in _OUTDATED or (code == "400" and getattr(refusal, "operation_name", "").startswith("Head"))


def _give_up(state: RetryCallState, *, patience: float) -> bool:
    error = state.outcome.exception() if state.outcome else None
    waited = max(state.idle_for, state.seconds_since_start or 0.0)
    passing = told_as(error) is StorageUnavailable and not is_full(error)
    return (state.attempt_number >= _ATTEMPTS and waited >= patience) or not passing


_RETRYING = Retrying(
    retry=retry_if_exception(lambda error: told_as(error) is not None),
    wait=wait_random_exponential(multiplier=0.5, max=15),  # full jitter, so that many workers do not return at once
)
