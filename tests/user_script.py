"""A user's script that uses every public name. Type checkers read it; nobody runs it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import ray.data

from latentsync_ray import (
    ClipError,
    ClipRecord,
    Cluster,
    ConfigError,
    Job,
    LipSync,
    ModelError,
    Pair,
    Recipe,
    Summary,
    __version__,
    lipsync,
    lipsync_dataset,
    load_job,
    read_records,
    run,
)


def one_clip(folder: Path) -> str:
    recipe = Recipe(model="latentsync-1.6", steps=10, guidance_scale=1.5)
    record: ClipRecord = lipsync(folder / "talk.mp4", "speech.wav", folder / "dubbed.mp4", recipe=recipe, device="cuda")
    if record.failed:
        return f"{record.error_code}: {record.error}"
    finished: datetime | None = record.finished_at
    return f"{record.output} {record.frames} {record.duration} {finished} {record.ok} {__version__}"


def many_clips(folder: Path) -> list[ClipRecord]:
    model = LipSync(folder, recipe=Recipe())
    seen: list[int] = []
    pairs = [Pair(clip_id="anna", video=folder / "anna.mp4", audio="gs://b/anna.wav", seed=7, language="de")]
    return [model(pair, on_part=lambda part: seen.append(part.stop - part.start)) for pair in pairs]


def a_job(folder: Path) -> float:
    job = Job(
        manifest=folder / "pairs.csv", output=folder, recipe=Recipe(), cluster=Cluster(runner="local"), failure_budget=0.1
    )
    try:
        summary: Summary = run(job)
        again: Summary = run(load_job(folder / "job.yaml", "recipe.steps=10"))
    except (ConfigError, ModelError) as error:
        raise SystemExit(str(error)) from error
    return summary.seconds + again.seconds


def a_dataset(folder: Path) -> ray.data.Dataset:
    pairs = ray.data.from_items([{"video": "v.mp4", "audio": "a.wav"}])
    return lipsync_dataset(pairs, folder, recipe=Recipe(), cluster=Cluster(), sink="mp4")


def finished(folder: Path) -> int:
    return int(read_records(folder, columns=["clip_id", "error_code"]).num_rows)


def codes() -> list[str]:
    return [error.code for error in ClipError.__subclasses__()]
