"""What is done with one request: fetch the inputs, dub them with the warm model, keep the result, say how it goes.

Knows the queue and the files; knows neither HTTP nor Ray.
"""

from __future__ import annotations

import dataclasses as dc
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from latentsync_ray import redact
from latentsync_ray.errors import TooLarge, is_transient
from latentsync_ray.local import LipSync
from latentsync_ray.recipe import ROW_SETTINGS
from latentsync_ray.records import commit_pending
from latentsync_ray.serve.fetch import FetchError, fetch
from latentsync_ray.serve.files import Files, Results
from latentsync_ray.serve.protocol import File, input_error, unfit
from latentsync_ray.serve.queue import Outcome, Queue
from latentsync_ray.serve.settings import Limits, Settings
from latentsync_ray.serve.tables import RequestRow
from latentsync_ray.serve.urls import TOKEN_SCHEME, media_url
from latentsync_ray.stages.failures import failed_record
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.stages.parts import drop_clip
from latentsync_ray.types import ClipPlan, ClipRecord, Pair

__all__ = ["Worker"]

_LOG = logging.getLogger(__name__)
_BEAT_SECONDS = 1.0
"""How often a running request shows that it is alive and looks whether it shall end."""
_LOG_SECONDS = 1.0
"""Progress is told no more often."""


class Worker:
    """``Worker(...).work(request_id)``: from claim to result, with a model that stays loaded."""

    def __init__(self, settings: Settings, queue: Queue, files: Files) -> None:
        self._settings, self._queue, self._files = settings, queue, files
        self._limits = {key.name: key.limits for key in settings.keys}
        share = min(1.0, settings.replica_gpus or 1.0)
        if settings.signing:
            check_signing(settings.signing)
        self._lipsync = LipSync(
            settings.folder, recipe=settings.recipe, device=settings.device, device_share=share, signing=settings.signing
        )

    def work(self, request_id: str) -> ClipRecord | None:
        """Do one waiting request; the record of its clip, or None when there is nothing to do or it was told to end.

        An error that is not about the clip is raised, and the request stays as it is, for whoever called.
        """
        row = self._queue.claim(request_id, lease_seconds=self._settings.lease_seconds)
        if row is None:
            return None
        with self._alive(row) as job:
            try:
                return self._dub(job)
            except _Stopped as stopped:
                self._queue.log(request_id, str(stopped), level="WARN")
                if stopped.timed_out:
                    late = Outcome.failure(504, "startup_timeout", str(stopped))
                    ended = self._queue.finish(request_id, late, attempt=row.attempts)
                else:
                    ended = self._queue.give_up(request_id, row.attempts)
                if ended:  # otherwise another worker has it by now, and goes on with these
                    drop_clip(self._settings.folder, request_id)  # also the part that was made as it ended
                return None

    @contextmanager
    def _alive(self, row: RequestRow) -> Iterator[_Job]:
        """A job whose lease is renewed as long as this lasts."""
        job = _Job(self._queue, row, self._settings)
        beat = threading.Thread(target=job.beat, daemon=True)
        beat.start()
        try:
            yield job
        finally:
            job.over.set()
            beat.join()

    def _dub(self, job: _Job) -> ClipRecord | None:
        row, arguments = job.row, job.row.arguments
        limits = self._limits.get(row.key_name, Limits())
        with tempfile.TemporaryDirectory(prefix="latentsync-") as work:
            paths = {}
            for name in ("video", "audio"):
                try:
                    paths[name] = self._input(job, arguments[f"{name}_url"], Path(work) / name, limits)
                except FetchError as error:
                    line, shown = f"cannot fetch the {name}: {error}", arguments[f"{name}_url"]
                    body = input_error(f"{name}_url", "file_download_error", f"the {name} cannot be fetched: {error}", shown)
                    outcome = Outcome(code=422, body=body)
                    self._queue.finish(row.id, outcome, attempt=row.attempts, line=line, level="ERROR")
                    return None
            pair = Pair(
                clip_id=row.id,
                video=str(paths["video"]),
                audio=str(paths["audio"]),
                **{name: arguments[name] for name in ROW_SETTINGS if name in arguments},
            )
            sink = Results(self._files, row.key_name)
            record = self._run(job, pair, sink, limits)
            clean = record.error or ""
            for name, path in paths.items():
                clean = clean.replace(str(path), f"the {name}").replace(path.name, name)
            asked = {name: redact.shown(arguments[f"{name}_url"]) for name in paths}
            record = dc.replace(record, **asked, error=redact.text(clean) or None)
        return self._settle(job, record, sink)

    def _input(self, job: _Job, url: str, target: Path, limits: Limits) -> Path:
        """An input as a local file."""
        if url.startswith(TOKEN_SCHEME):
            local = self._files.named(url.removeprefix(TOKEN_SCHEME))
            if local is None:
                raise FetchError("that upload is not here, or was never finished")
            return local
        job.log(f"fetching the {target.name}")
        began = time.monotonic()
        fetch(url, target, network=self._settings.network, max_bytes=limits.input_bytes, tick=lambda _: job.check())
        job.log(f"fetched the {target.name}: {target.stat().st_size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
        return target

    def _run(self, job: _Job, pair: Pair, sink: Results, limits: Limits) -> ClipRecord:
        try:
            for result in self._lipsync.stream(pair, sink=sink, on_frames=job.frames):
                job.check()
                if isinstance(result, ClipPlan):
                    seconds = result.frame_count / Fraction(result.fps_num, result.fps_den)
                    if seconds > limits.output_seconds:
                        raise TooLarge(
                            f"the audio lasts {float(seconds):.0f} s; at most {limits.output_seconds:g} s are dubbed"
                        )
                    job.planned(result)
                elif isinstance(result, ClipRecord):
                    if result.status == "failed":
                        drop_clip(self._settings.folder, pair.clip_id)
                    return result
        except TooLarge as error:
            return failed_record(pair, self._settings.recipe, error)
        raise AssertionError("a stream ends with a record")

    def _settle(self, job: _Job, record: ClipRecord, sink: Results) -> ClipRecord:
        row, level = job.row, "ERROR"
        line = f"failed: {record.error_code}: {record.error}"
        if record.status == "ok" and sink.file is not None:
            cost = self._settings.tariff.cost(record.duration or 0)
            record = dc.replace(record, cost=cost)
            video = File.of(self._files.get(sink.file.token) or sink.file, media_url(row.base, sink.file))
            outcome = Outcome(code=200, body={"video": video.model_dump()}, record=record.to_json(), cost=cost)
            level, line = "INFO", f"done: {record.frames} frames, {record.duration:.2f} s, seed {record.seed}, cost ${cost:g}"
        elif is_transient(record.error_code) and record.error_code != "invalid_pair":
            failure = Outcome.failure(500, "runner_server_error", f"{record.error_code}: {record.error}")
            outcome = dc.replace(failure, record=record.to_json())
        else:
            outcome = Outcome(
                code=422, body=unfit(str(record.error_code), str(record.error), row.arguments), record=record.to_json()
            )
        # Before it can be delivered, so that no delivered clip is unaccounted for.
        commit_pending(self._settings.folder, record)
        self._queue.finish(row.id, outcome, attempt=row.attempts, line=line, level=level)
        told = {"latentsync_request": row.id, "key": row.key_name, "code": outcome.code, "cost": outcome.cost}
        _LOG.info("request %s: %s", row.id, record.error_code or "ok", extra=told)
        return record


class _Stopped(Exception):
    """The request shall end."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class _Job:
    """One attempt at a request: shows that it is alive, and tells how it goes."""

    def __init__(self, queue: Queue, row: RequestRow, settings: Settings) -> None:
        self.queue, self.row, self.over = queue, row, threading.Event()
        self._settings = settings
        self._ended = threading.Event()
        self._until = time.monotonic() + settings.maximum_seconds
        self._total = self._done = 0
        self._told = 0.0

    def beat(self) -> None:
        while not self.over.wait(_BEAT_SECONDS):
            try:
                mine = self.queue.renew(self.row.id, self.row.attempts, lease_seconds=self._settings.lease_seconds)
            except SQLAlchemyError as error:
                _LOG.warning("request %s: the database does not answer: %s", self.row.id, type(error).__name__)
                continue
            if not mine:
                self._ended.set()
                return

    def check(self) -> None:
        """Raises _Stopped when the request shall end: it was cancelled, or takes too long."""
        if self._ended.is_set():
            raise _Stopped("cancelled")
        if time.monotonic() > self._until:
            raise _Stopped(f"it takes longer than {self._settings.maximum_seconds:g} s", timed_out=True)

    def log(self, message: str, *, level: str = "INFO") -> None:
        try:
            self.queue.log(self.row.id, message, level=level)
        except SQLAlchemyError:  # no line is worth the work
            _LOG.warning("request %s: not kept, the database does not answer: %s", self.row.id, message)

    def planned(self, plan: ClipPlan) -> None:
        self._total = plan.frame_count
        rate = float(Fraction(plan.fps_num, plan.fps_den))
        seed = "" if plan.seed is None else f", seed {plan.seed}"
        self.log(f"dubbing {plan.frame_count} frames of {plan.width} x {plan.height} at {rate:g} fps{seed}")

    def frames(self, count: int) -> None:
        """``count`` more frames are made, were by an earlier attempt, or show no face."""
        self.check()
        self._done += count
        due = time.monotonic() - self._told >= _LOG_SECONDS or self._done == self._total
        if count and due:
            self._told = time.monotonic()
            self.log(f"lip-synced {self._done} of {self._total} frames")
