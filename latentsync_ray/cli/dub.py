"""``lipsync`` (one pair, no Ray) and ``run`` (a job)."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.markup import escape

from latentsync_ray import redact
from latentsync_ray.cli.ending import Ended, ErrorsAsJson, ending_in_time, leave
from latentsync_ray.cli.plan import LIMIT, MARKS, RETRY, load, show_plan
from latentsync_ray.cli.terminal import ERR, OUT, duration
from latentsync_ray.config import Cluster, Job, Recipe
from latentsync_ray.errors import ConfigError
from latentsync_ray.job_file import build_job
from latentsync_ray.progress import display, make_progress
from latentsync_ray.registry import DETECTORS
from latentsync_ray.types import Device

if TYPE_CHECKING:
    from latentsync_ray.driver import Summary

__all__ = ["lipsync", "print_summary", "run"]


_RECIPE, _CLUSTER = Recipe(), Cluster()
_DEVICES = get_args(Device)


def lipsync(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Video with a face: a path or URI.")],
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="The speech it shall say: sound, or a video with sound.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The MP4 to write: a path or URI that ends in .mp4.")],
    model: Annotated[str, typer.Option(help="A name from 'latentsync-ray models', or a folder or URI.")] = _RECIPE.model,
    steps: Annotated[int, typer.Option(help="Denoising steps; time grows with them.")] = _RECIPE.steps,
    guidance_scale: Annotated[
        float, typer.Option(help="1 to 2: how strongly lips follow the speech; above 1 takes twice the time.")
    ] = _RECIPE.guidance_scale,
    seed: Annotated[int, typer.Option(help="Draws the starting noise.")] = _RECIPE.seed,
    loop_mode: Annotated[
        str, typer.Option(metavar="pingpong|loop", help="How the video repeats when the speech is longer.")
    ] = _RECIPE.loop_mode,
    fps: Annotated[
        str, typer.Option(metavar="N|source", help="Output frames per second; 'source' keeps the video's own, models know 25.")
    ] = str(_RECIPE.fps),
    detector: Annotated[
        str,
        typer.Option(
            metavar="NAME|PLACE|MODULE:CLASS",
            help=f"What finds faces: auto, {', '.join(DETECTORS)}, the place of the mesh's files, or a class of your own. "
            "auto takes the best that is here ('latentsync-ray models').",
            autocompletion=lambda: ["auto", *DETECTORS],
        ),
    ] = _RECIPE.detector,
    face: Annotated[
        str,
        typer.Option(metavar="speaking|largest|all|X,Y[@SECONDS]|N", help="Which face gets the speech, if there are several."),
    ] = _RECIPE.face,
    paste: Annotated[
        str,
        typer.Option(
            metavar="mask|crop", help="Replace what the model generated, or the whole crop as the official code does."
        ),
    ] = _RECIPE.paste,
    device: Annotated[
        str, typer.Option(metavar="|".join(_DEVICES), help="Where the model runs.", autocompletion=lambda: list(_DEVICES))
    ] = _CLUSTER.device,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the recipe, e.g. --set crf=14.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Lip-sync one video to one speech, in this process (no Ray)."""
    recipe = {"model": model, "steps": steps, "guidance_scale": guidance_scale, "seed": seed, "loop_mode": loop_mode}
    recipe |= {"fps": fps, "detector": detector, "face": face, "paste": paste}
    tree = {"manifest": video, "output": output, "recipe": recipe, "cluster": {"device": device}}
    try:
        job = build_job(tree, *(f"recipe.{setting}" for setting in settings or ()), source="options")
    except ConfigError as error:
        raise ConfigError(_as_options(str(error), recipe)) from error

    from latentsync_ray import local
    from latentsync_ray.models.find import find_model
    from latentsync_ray.preflight import resolved

    local.check_output(video, audio, output, overwrite=force)
    note = find_model(job.recipe.model).note
    progress = make_progress()
    progress.start(1, 0)
    try:
        if note:
            progress.note(note)
        record = local.lipsync(
            video,
            audio,
            output,
            recipe=resolved(job.recipe, note=progress.note),
            device=job.cluster.device,
            overwrite=force,
            on_frames=progress.frames,
            on_phase=progress.phase,
        )
        progress.clip(record)
    finally:
        progress.stop()
    if record.status == "failed":
        raise typer.Exit(1)
    about = f"{record.frames} frames, {record.duration:.2f} s at {record.fps:g} fps, {record.width} x {record.height}"
    OUT.print(f"[bold]{escape(str(record.output))}[/]  {about}", soft_wrap=True)
    if record.frames_without_face:
        ERR.print(f"[yellow]{record.frames_without_face} frames in which no face got the speech were left as they are[/]")


def _as_options(message: str, recipe: Iterable[str]) -> str:
    """A job's error in this command's words: its user has no keys, but options."""
    words = {f"recipe.{name}": f"--{name.replace('_', '-')}" for name in recipe}
    words |= {"cluster.device": "--device", "manifest": "VIDEO", "output": "OUT"}
    return re.sub(r"(?:^options: |(?<=; ))([\w.]+)(?=: )", lambda found: words.get(found[1], found[1]), message)


def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The job, a YAML file; 'latentsync-ray init' writes one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override values of the job, e.g. recipe.steps=10.")
    ] = None,
    limit: LIMIT = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="90m|2h|SECONDS", help="Begin no clip after that time.", show_default=False)
    ] = None,
    retry: RETRY = None,
    marks: MARKS = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing: as 'latentsync-ray plan'.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary, or the error, as one JSON object.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell errors only, and the summary if it is asked for as JSON.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell what the package logs at all levels, and what Ray says.")
    ] = False,
) -> None:
    """Lip-sync every pair of a manifest, on Ray.

    Writes one MP4 per clip into OUTPUT/clips/ and one row per clip, failed ones included, into OUTPUT/metadata/.

    Interrupted and run again, it goes on where it was. Ctrl-C and SIGTERM end it within 20 seconds, a second one at once.

    Exits with 1 when more clips failed than the job's failure_budget or stop_at_failed allows, when one met a bug, or when
    storage failed; with 2 when nothing was started, 3 when the time limit or the budget left clips, 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    with ErrorsAsJson(as_json):
        job = load(config, overrides, limit=limit, time_limit=time_limit, retry=retry, marks=marks)
    if dry_run:
        show_plan(job, as_json=as_json)
        return

    from latentsync_ray.driver import run as run_job

    try:
        with ErrorsAsJson(as_json), ending_in_time():
            with display(job, verbose=verbose) as progress:
                summary = run_job(job, progress=None if quiet else progress)
            if as_json:
                OUT.print_json(json.dumps({**asdict(summary), "output": redact.shown(summary.output)}), indent=None)
            elif not quiet:
                print_summary(summary, job, options=f" --config {shlex.quote(config)}" if job.storage_options else "")
            if quiet and not as_json and summary.exit_code:
                ERR.print(escape("; ".join(_reasons(summary, job))), soft_wrap=True)
    except Ended as ended:
        ERR.print(f"ended by {ended}; finished clips and segments are kept; run the same command again to continue")
        leave(ended.exit_code)
    raise typer.Exit(summary.exit_code)


def print_summary(summary: Summary, job: Job | None = None, *, options: str = "") -> None:
    """How a run of ``job`` ended, in a few lines; ``options`` are what ``report`` needs besides the output."""
    before = f" ({summary.done_before} before)" if summary.done_before else ""
    failed = f", [red]{summary.failed} failed[/]" if summary.failed else ""
    earlier = (
        f", [red]{summary.failed_before} failed before[/] (--retry failed tries them again)" if summary.failed_before else ""
    )
    OUT.print(f"[bold]{summary.done_before + summary.ok} of {summary.total} clips done[/]{before}{failed}{earlier}")
    if summary.dropped:
        OUT.print(f"{_clips(summary.dropped)} marked drop: not made, and removed if there")
    if not summary.ok + summary.failed + summary.left + summary.dropped:
        OUT.print("nothing to do: no clip is new, to be tried again, or known to have changed")
    if summary.below_quality:
        OUT.print(f"{_clips(summary.below_quality)} below the job's quality in every attempt: the best one is published")
    if summary.kept:
        stays = "its earlier version stays" if summary.kept == 1 else "their earlier versions stay"
        OUT.print(f"{_clips(summary.kept)} failed when made again: {stays}, and the table does not tell of this failure")
    for reason in _reasons(summary, job):
        OUT.print(escape(reason), soft_wrap=True)
    if summary.frames:
        rate = summary.frames / max(summary.seconds, 1e-9)
        OUT.print(f"{summary.frames} frames in {duration(summary.seconds)}, {rate:.1f} frames/s")
    if summary.speed:
        OUT.print(escape(summary.speed), soft_wrap=True)
    if summary.done_before + summary.failed_before + summary.ok + summary.failed:
        place = shlex.quote(redact.shown(summary.output))
        OUT.print(f"[dim]more: latentsync-ray report {escape(place + options)}[/]", soft_wrap=True)


def _reasons(summary: Summary, job: Job | None) -> Iterator[str]:
    """Why the exit code is what it is, and what is left."""
    if summary.bugs:
        what = "1 clip met a bug; its row holds" if summary.bugs == 1 else f"{summary.bugs} clips met bugs; their rows hold"
        yield f"exit code 1: {what} the end of the traceback (column error)"
    elif summary.stopped == "stop_at_failed":
        limit = f": {job.stop_at_failed:g}" if job and job.stop_at_failed else ""
        yield f"exit code 1: stopped after {_clips(summary.failed)} had failed (stop_at_failed{limit})"
    elif summary.exit_code == 1:
        failed = summary.failed + summary.failed_before
        allowed = f"; failure_budget allows {job.failure_budget:.0%}" if job else ", more than failure_budget allows"
        yield (
            f"exit code 1: {failed} of {_clips(summary.total)} have failed, now or before{allowed}. Correct or drop their "
            "rows, or raise failure_budget"
        )
    if not summary.left:
        return
    left = f"{_clips(summary.left)}; run the same command again to continue"
    if summary.exit_code != 3:
        yield f"left for another run: {left}"
    elif summary.stopped == "budget":
        yield f"exit code 3: the budget left {left}"
    elif summary.frames or summary.ok + summary.failed:
        yield f"exit code 3: the time limit left {left}"
    else:
        yield f"exit code 3: the time limit ended before a first segment was made, and left {_clips(summary.left)}; raise it"


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"
