"""``plan``: what a run would do, without doing it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from latentsync_ray import redact
from latentsync_ray.cli.ending import ErrorsAsJson
from latentsync_ray.cli.terminal import ERR, OUT, duration, show, size, table
from latentsync_ray.config import Job
from latentsync_ray.errors import ConfigError
from latentsync_ray.job_file import load_job

if TYPE_CHECKING:
    from latentsync_ray.forecast import Forecast

__all__ = ["LIMIT", "MARKS", "RETRY", "load", "plan", "show_plan"]

_SAMPLE = 100

LIMIT = Annotated[int | None, typer.Option("--limit", min=1, help="Most clips to take up.", show_default=False)]
RETRY = Annotated[
    str | None,
    typer.Option(
        "--retry",
        metavar="failed|missing|all|CODE,...",
        help="Make again: clips that failed, whose MP4 is gone, with these error codes, or all.",
        show_default=False,
    ),
]

MARKS = Annotated[
    str | None,
    typer.Option(
        "--marks",
        metavar="FILE",
        help="CSV of clips to keep, redo or drop, as the page of 'report --html' writes it.",
        show_default=False,
    ),
]


def plan(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The job, as for 'latentsync-ray run'.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override values of the job, e.g. recipe.steps=10.")
    ] = None,
    limit: LIMIT = None,
    retry: RETRY = None,
    marks: MARKS = None,
    sample: Annotated[int, typer.Option(min=0, help="Clips whose inputs are looked at; they are downloaded for it.")] = _SAMPLE,
    everything: Annotated[bool, typer.Option("--all", help="Look at the inputs of all clips to be made.")] = False,
    speed: Annotated[
        float | None,
        typer.Option(min=0.01, help="Frames per second of one device.", show_default="that of the output's clips"),
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Dollars for an hour of one device.", show_default="the job's budget's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan, or the error, as one JSON object.")] = False,
) -> None:
    """Tell what a run would do: clips, hours, expected failures, cost, and what is lacking. Writes nothing.

    May be asked while a run is at work. Exits with 2 when something is lacking that would stop the run.
    """
    with ErrorsAsJson(as_json):
        job = load(config, overrides, limit=limit, retry=retry, marks=marks)
    show_plan(job, sample=None if everything else sample, speed=speed, price=price, as_json=as_json)


def load(config: str, overrides: Sequence[str] | None, **options: Any) -> Job:
    """The job, with what the command's ``options`` say of it. Raises ConfigError, in which these have the names of options."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return load_job(config, *(overrides or ()), *(f"{name}={value}" for name, value in given.items()))
    except ConfigError as error:
        told = re.sub(
            rf"^overrides: ({'|'.join(given) or '$'})(?=:)", lambda name: f"--{name[1].replace('_', '-')}", str(error)
        )
        raise ConfigError(told) from error


def show_plan(
    job: Job, *, sample: int | None = _SAMPLE, speed: float | None = None, price: float | None = None, as_json: bool = False
) -> None:
    """Print it."""
    from latentsync_ray.forecast import forecast

    with ErrorsAsJson(as_json), ERR.status("reading the manifest") as status:
        told = forecast(job, sample=sample, speed=speed, price=price, phase=status.update)
    if as_json:
        OUT.print_json(json.dumps(asdict(told)), indent=None)
    else:
        _print(told, prune=job.prune)
    if told.lacking:
        raise typer.Exit(2)


def _print(told: Forecast, *, prune: bool) -> None:
    making = told.new + told.retried + told.changed + told.again
    of = [(told.new, "new"), (told.changed, "changed"), (told.retried, "tried again"), (told.again, "dubbed before")]
    parts = ", ".join(f"{count} {what}" for count, what in of if count)
    OUT.print(f"[bold]{making} of {told.total} clips to be made[/]" + (f": {parts}" if parts else ""))
    rest = [
        (told.done, "done"),
        (told.failed, "failed before, not tried again (--retry failed)"),
        (told.left, "left by the limit"),
    ]
    rest += [(told.not_in_manifest, f"not in the manifest any more{', would be removed' if prune else ''}")]
    rest += [(told.dropped, "marked drop: would be removed, and not made")]
    if kept := ", ".join(f"{count} {what}" for count, what in rest if count):
        OUT.print(kept)
    if making:
        _print_work(told, making)
    if told.failures:
        failures = table("would fail with", "clips", "for example")
        for code, count in told.failures.items():
            failures.add_row(f"[red]{code}[/]", str(count), escape(redact.text(" ".join(told.examples[code].split()))))
        OUT.print()
        show(failures)
    for each in told.lacking:
        OUT.print(f"[bold red]would not start:[/] {escape(each)}", soft_wrap=True)


def _print_work(told: Forecast, making: int) -> None:
    if not told.frames:
        return
    if told.hours is not None:
        basis = "all inputs looked at" if told.probed == making else f"from a look at {told.probed}"
        OUT.print(f"{told.frames} frames, {duration(told.hours * 3600)} of video ({basis})")
    moved = [(told.bytes_in, "to be read"), (told.bytes_out, "to be written")]
    if text := ", ".join(f"{size(count)} {what}" for count, what in moved if count is not None):
        OUT.print(text)
    if told.device_hours is None:
        OUT.print("device hours: unknown before the first clips are done; estimate with --speed FRAMES_PER_SECOND")
        return
    cost = f", ${told.dollars:,.2f}" if told.dollars is not None else ""
    OUT.print(f"{duration(told.device_hours * 3600)} of one device at {told.frames_per_second:.1f} frames/s{cost}")
    if told.over_budget:
        OUT.print("[red]more than the budget: a run would end early, with exit code 3[/]")
