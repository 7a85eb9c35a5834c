"""One run at a time in an output: the file ``{output}/_work/run.json`` says whose, and is renewed as long as the run lives.

Storage knows no locks: of two runs that start in the same moment, one finds out at its next beat, and is told to stop. It
may find no sign at all then: the other one has ended, and taken along what it had written over this one's.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from latentsync_ray import redact, storage
from latentsync_ray.errors import ConfigError, InputNotFound, LatentSyncError
from latentsync_ray.layout import run_uri

__all__ = ["Lease"]

log = logging.getLogger(__name__)

_BEAT, _STALE = 30.0, 180.0
"""Seconds between two signs of life, and without one after which a run counts as dead: more than storage is retried."""
_LOOK = 5.0
"""Seconds between two looks at another run's sign."""
_HELD: set[str] = set()
"""Tokens of this process's runs. Another one with its host and id was before it, as in a container that is started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    host: str
    pid: int
    started: str
    beat: str  # the last sign of life; both in UTC, ISO 8601
    token: str
    processes: str = ""  # which table of processes ``pid`` is in: several containers may have one host name

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"

    def is_here(self) -> bool:
        """Whether the process can be looked for from here."""
        return bool(self.processes) and self.processes == _processes()

    def is_gone(self) -> bool:
        """Whether the process can be looked for from here, and is not there."""
        return self.is_here() and self.token not in _HELD and _is_gone(self.pid)

    def beat_lately(self) -> bool:
        """Whether the last sign of life is young by this machine's clock, which may be wrong, as may the other's."""
        return abs(datetime.now(UTC) - datetime.fromisoformat(self.beat)) < timedelta(seconds=_STALE)


class Lease:
    """``with Lease(output) as lease``: no other run works there meanwhile. Raises ConfigError when one does.

    The sign of a run elsewhere is watched: whether it is renewed. One that is old by the clock, or of another container with
    this host's name, for a little longer than a run takes from beat to beat, any other for three minutes; ``note`` is told so.
    A run that lives all the same, and could not write then, finds out and stops.
    """

    def __init__(self, output: str, *, note: Callable[[str], None] = log.info) -> None:
        self._output, self._uri, self._note = output, run_uri(output), note
        here = {"host": socket.gethostname(), "pid": os.getpid(), "processes": _processes()}
        self._run = _Run(**here, started=_now(), beat="", token=uuid.uuid4().hex)
        self._signed, self._taken_by = False, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="latentsync-lease", daemon=True)

    def __enter__(self) -> Self:
        if (other := self._living()) is not None:
            place, kill = redact.shown(self._output), f"; to end it, kill {other.pid}: then this one can start at once"
            raise ConfigError(
                f"another run is at work in {place}: {other}, last sign of life {other.beat}. Wait for its end or choose "
                f"another output{kill if other.is_here() else ''}"
            )
        with ExitStack() as undo:  # whatever breaks in here must not keep others out
            undo.callback(self._give_back)
            self._write()
            self._signed = True
            _HELD.add(self._run.token)
            self.confirm()
            self._thread.start()
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._give_back()
        except KeyboardInterrupt:
            self._give_back()
            raise

    def _give_back(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        _HELD.discard(self._run.token)
        try:
            if self._is_ours() and storage.exists(self._uri):  # else it was never written, where nothing can be
                storage.delete([self._uri])
        except LatentSyncError as failure:
            log.warning("%s could not be removed: %s", redact.shown(self._uri), failure)

    def check(self) -> None:
        """Raise ConfigError when another run, which saw no sign of life from here, has taken the output over."""
        if self._taken_by:
            place = redact.shown(self._output)
            raise ConfigError(
                f"this run stops: another took {place} over ({self._taken_by}), because both started at once or this "
                f"one gave no sign of life for {_STALE / 60:.0f} minutes; finished clips are kept"
            )

    def confirm(self) -> None:
        """As ``check``, by a look at the storage: for what must not be done by two. Raises StorageUnavailable, too."""
        self._is_ours()
        self.check()

    def _keep(self) -> None:
        while not self._ended.wait(_BEAT):
            try:
                if not self._is_ours():
                    return
                self._write()
            except LatentSyncError as failure:
                log.warning("the sign of life in %s could not be renewed: %s", redact.shown(self._uri), failure)

    def _living(self) -> _Run | None:
        """The other run that is at work in the output, if there is one."""
        first = self._read()
        if first is None or first.is_gone():
            return None
        if first.is_here() and first.beat_lately():
            return first
        patience = _STALE if first.beat_lately() and first.host != self._run.host else 1.2 * _BEAT
        self._note(f"the last run here ({first}) left its sign: looking for up to {patience:.0f} s whether it renews it")
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(min(_LOOK, max(0.0, until - time.monotonic())))
            now = self._read()
            if now is None or now.token != first.token or now.beat != first.beat:
                return now
        return None

    def _is_ours(self) -> bool:
        """Once it was another's it stays so, although that one may have ended: what it did there is unknown here."""
        other = self._read()
        if other and other.token != self._run.token:
            self._taken_by = str(other)
        elif not other and self._signed and self._is_missing():
            self._taken_by = f"{redact.shown(self._uri)} is gone: that run has ended, or somebody deleted it"
        return not self._taken_by

    def _is_missing(self) -> bool:
        """Whether the sign is certainly not there; one that may not be read just now may be. Raises StorageUnavailable."""
        try:
            return not storage.exists(self._uri)
        except InputNotFound:
            return False

    def _read(self) -> _Run | None:
        try:
            return _Run(**json.loads(storage.read_bytes(self._uri)))
        except (InputNotFound, ValueError, TypeError):
            return None  # nothing there, or nothing of ours

    def _write(self) -> None:
        storage.write_bytes(self._uri, json.dumps(asdict(replace(self._run, beat=_now()))).encode())


def _processes() -> str:
    """A name for the table of processes that this one is in; empty where the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}" if sys.platform == "darwin" else ""


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # else it is another user's
    return pid == os.getpid() or _has_ended(pid)


def _has_ended(pid: int) -> bool:
    """Whether nothing is left of the process but its exit code, which its parent has not asked for; see proc(5)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):  # no Linux, or gone this moment
        return False
    return state in (b"Z", b"X")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
