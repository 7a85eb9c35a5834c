"""What a run of a job would do, and take: told from the manifest, the records and a sample of the inputs. Writes nothing."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from latentsync_ray import redact, storage
from latentsync_ray.config import Job
from latentsync_ray.consent import consented, refusal
from latentsync_ray.errors import ClipError, ConfigError, ModelError, NotConsented
from latentsync_ray.filesystems import configured
from latentsync_ray.manifest import extra_columns, read_manifest, to_pair
from latentsync_ray.marks import marked
from latentsync_ray.preflight import check_recipe, check_room, resolved
from latentsync_ray.records import Records, read_records
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.rows import attempt, raise_settings
from latentsync_ray.todo import check_places, check_prune, find_todo, rows_of
from latentsync_ray.types import ClipPlan, Pair

__all__ = ["Forecast", "Probe", "forecast", "probe"]

_pc: Any = pyarrow.compute  # its functions are made at import, where type checkers do not see them

_PROBERS = 8
"""Inputs looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a look at a pair's inputs found."""

    error_code: str | None
    error: str | None
    frames: int
    seconds: float
    """Of the clip to be made."""
    video_bytes: int
    audio_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run would do. What was sampled is scaled to all clips to be made; None: not known."""

    output: str
    total: int
    """Clips in the manifest."""
    done: int
    """Dubbed before, and unchanged."""
    failed: int
    """Failed before for a reason in their data, and not tried again."""
    new: int
    retried: int
    """Failed before, and tried again."""
    again: int
    """Dubbed before, unchanged, and made again all the same, because of ``retry=all``."""
    changed: int
    """Made again, because their inputs or settings have changed."""
    left: int
    """Left to another run by the job's limit."""
    not_in_manifest: int
    """In the table only."""
    dropped: int
    """Not to be made, and removed if they had been, because they are marked ``drop``."""
    probed: int
    """Clips whose inputs were looked at."""
    failures: dict[str, int]
    """Error code -> clips that would fail with it, as far as a look at their inputs can tell."""
    examples: dict[str, str]
    """Error code -> one of them, and why."""
    frames: int | None
    hours: float | None
    """Of video to be made."""
    bytes_in: int | None
    """To be read; a video of many rows once."""
    bytes_out: int | None
    """By the clips that the output has already."""
    frames_per_second: float | None
    """Of one device: as given, or as it was for the clips that the output has already, waiting included."""
    device_hours: float | None
    dollars: float | None
    over_budget: bool | None
    """Whether these are more than the job's budget."""
    lacking: list[str]
    """What would stop the run before it begins."""


def probe(pair: Pair, job: Job) -> Probe:
    """Fetch a pair and look at its streams, as a run does first."""
    plan = Plan(job.recipe, job.output)
    found = cast("ClipPlan", next(attempt(plan, pair, ClipPlan)))
    raise_settings(found)
    fps = found.fps_num / found.fps_den
    return Probe(
        error_code=found.error_code,
        error=found.error,
        frames=found.frame_count,
        seconds=found.frame_count / fps,
        video_bytes=_size(pair.video),
        audio_bytes=_size(pair.audio),
    )


def forecast(
    job: Job,
    *,
    sample: int | None = 100,
    speed: float | None = None,
    price: float | None = None,
    phase: Callable[[str], None] = lambda _: None,
) -> Forecast:
    """Look what a run of ``job`` would do.

    ``sample`` clips of those to be made have their inputs looked at, None: all. ``speed`` is that of one device in frames per
    second, ``price`` dollars for an hour of it; by default as in the output's records and the job's budget. Raises ConfigError
    for a job or manifest that cannot be read.
    """
    with configured(job.storage_options):
        return _forecast(job, sample, speed, price, phase)


def _forecast(job: Job, sample: int | None, speed: float | None, price: float | None, phase: Callable[[str], None]) -> Forecast:
    phase("reading the manifest")
    table, marks = marked(read_manifest(job.manifest, job.clip_name), job.marks)
    job = job.model_copy(update={"recipe": resolved(job.recipe)})
    fingerprint = job.recipe.fingerprint()
    records = Records(
        job.output,
        extra=extra_columns(table),
        partition_by=job.partition_by,
        recipe=fingerprint,
        mixed_recipes=job.mixed_recipes,
        read_only=True,
    )
    todo = find_todo(job, table, records, phase, marks)
    codes = records.codes(table["clip_id"]).take(todo.rows)
    unchanged = pa.array(~np.isin(todo.rows, todo.changed))
    again = codes.filter(unchanged).drop_null()
    dubbed = _pc.sum(_pc.equal(again, "")).as_py() or 0
    given = consented(table) if job.require.consent else np.ones(len(table), np.bool_)
    asked = rows = todo.rows[given[todo.rows]]
    if sample is not None and sample < len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, sample).round().astype(int))]
    lacking = list(_lacking(job))
    try:
        if job.prune:
            check_prune(job.output, records, todo.removed)
        check_places(job.output, table, todo.rows, todo.to_remove(prune=job.prune))
    except ConfigError as error:
        lacking.append(str(error))
    phase(f"looking at the inputs of {len(rows)} clips")
    probes = _probed([to_pair(table, int(row)) for row in rows], job, phase)
    share = len(asked) / len(rows) if len(rows) else 0
    well = [each for each in probes if not each.error_code]
    frames = round(sum(each.frames for each in well) * share) if probes or not len(asked) else None
    seconds = sum(each.seconds for each in well) * share
    known = _made_before(job.output)
    speed = speed or known.speed
    hours = frames / speed / 3600 if speed and frames is not None else None
    price = price or job.budget.dollars_per_hour
    failures = Counter(each.error_code for each in probes if each.error_code)
    refused = len(todo.rows) - len(asked)
    others = todo.others(table["clip_id"])
    failed = records.failed(others)
    return Forecast(
        output=redact.shown(job.output),
        total=len(table),
        done=len(others) - failed,
        failed=failed,
        new=codes.null_count,
        retried=len(again) - dubbed,
        again=dubbed,
        changed=len(todo.changed),
        left=len(todo.over_limit),
        not_in_manifest=len(todo.removed),
        dropped=len(todo.dropped),
        probed=len(probes),
        failures={
            **({NotConsented.code: refused} if refused else {}),
            **{code: round(count * share) for code, count in failures.most_common()},
        },
        examples={**_without_consent(table, todo.rows[~given[todo.rows]]), **_examples(table, rows, probes)},
        frames=frames,
        hours=seconds / 3600 if frames is not None else None,
        bytes_in=_bytes_in(rows_of(table, asked, ["video", "audio"]), rows_of(table, rows, ["video", "audio"]), probes),
        bytes_out=round(known.bytes_per_second * seconds) if known.bytes_per_second else None,
        frames_per_second=speed,
        device_hours=hours,
        dollars=hours * price if hours is not None and price else None,
        over_budget=hours > (job.budget.hours or math.inf) if hours is not None else None,
        lacking=[redact.text(each, job.output) for each in lacking],
    )


def _lacking(job: Job) -> Iterator[str]:
    if not storage.is_remote(job.output) and not os.access(_nearest(Path(job.output.removeprefix("file://"))), os.W_OK):
        yield f"{job.output} cannot be written by this user; change its permissions, or name another output"
    try:
        check_recipe(job.recipe, note=lambda _: None, fetch=False)
        check_room(job)
        if job.signing and (job.cluster.address is None or job.cluster.runner == "local"):
            check_signing(job.signing)
        if job.cluster.runner == "ray" and job.cluster.address:
            from latentsync_ray.pipeline import shortage

            yield from shortage(job)
    except (ConfigError, ModelError) as error:
        yield str(error)


def _nearest(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    return next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 - ``Path.exists`` raises below a folder that one may not enter


def _probed(pairs: list[Pair], job: Job, phase: Callable[[str], None]) -> list[Probe]:
    if job.cluster.runner == "ray" and job.cluster.address:
        from latentsync_ray.pipeline import probe_all

        return list(_counted(probe_all(probe, pairs, job), len(pairs), phase))
    with ThreadPoolExecutor(_PROBERS) as pool:
        return list(_counted(pool.map(lambda pair: probe(pair, job), pairs), len(pairs), phase))


def _counted(probes: Iterable[Probe], total: int, phase: Callable[[str], None]) -> Iterator[Probe]:
    for number, each in enumerate(probes, 1):
        if number % 25 == 0:
            phase(f"looking at the inputs of clips: {number} of {total}")
        yield each


def _size(uri: str) -> int:
    try:
        return Path(storage.fetch(uri)).stat().st_size  # at hand: it was fetched a moment ago
    except ClipError:
        return 0


def _bytes_in(todo: pa.Table, probed: pa.Table, probes: list[Probe]) -> int | None:
    """Sizes of all distinct inputs, by the mean of those that were looked at."""
    total = 0.0
    for name in ("video", "audio"):
        sizes = {uri: getattr(each, f"{name}_bytes") for uri, each in zip(probed[name].to_pylist(), probes, strict=True)}
        known = [size for size in sizes.values() if size]
        if not known and len(todo):
            return None
        total += float(np.mean(known)) * _pc.count_distinct(todo[name]).as_py() if known else 0
    return round(total)


def _examples(table: pa.Table, rows: np.ndarray, probes: list[Probe]) -> dict[str, str]:
    examples: dict[str, str] = {}
    for row, each in zip(rows.tolist(), probes, strict=True):
        if each.error_code:
            examples.setdefault(each.error_code, f"{table['clip_id'][row].as_py()} (row {row + 1}): {each.error}")
    return examples


def _without_consent(table: pa.Table, rows: np.ndarray) -> dict[str, str]:
    return {NotConsented.code: f"{table['clip_id'][rows[0]].as_py()}: {refusal(f'row {rows[0] + 1}: ')}"} if len(rows) else {}


@dataclass(frozen=True, slots=True)
class _Before:
    """What the clips of the output took, None where nothing is known."""

    speed: float | None = None
    bytes_per_second: float | None = None


def _made_before(output: str) -> _Before:
    columns = ["error_code", "frames", "frames_without_face", "generate_seconds", "idle_seconds", "bytes", "duration"]
    try:
        made = read_records(output, columns=columns)
    except ConfigError:
        return _Before()
    made = made.filter(made["error_code"].is_null())
    sums = {name: _pc.sum(made[name]).as_py() or 0 for name in columns[1:]}
    busy = sums["generate_seconds"] + sums["idle_seconds"]
    return _Before(
        speed=sums["frames"] / busy if busy else None,
        bytes_per_second=sums["bytes"] / sums["duration"] if sums["duration"] else None,
    )
