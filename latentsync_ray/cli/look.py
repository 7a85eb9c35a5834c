"""``report``: what a run made."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from latentsync_ray import redact
from latentsync_ray.cli.ending import ErrorsAsJson
from latentsync_ray.cli.terminal import ERR, OUT, duration, show, size, table
from latentsync_ray.errors import ConfigError
from latentsync_ray.job_file import load_job

if TYPE_CHECKING:
    from latentsync_ray.report import Report
    from latentsync_ray.report.numbers import Example, OutOfSync, SlowClip

__all__ = ["report"]

_NAMED = 5
"""Clips that a list on a terminal has."""


def report(
    output: Annotated[
        str | None,
        typer.Argument(metavar="OUTPUT", help="The output of a run: a folder or URI.", show_default="that of --config"),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Argument(metavar="PAGE", help="Where --html writes.", show_default="report.html in OUTPUT"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="The job, for its output and its storage_options.", show_default=False),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write it as an HTML page, on which the worst clips are played and marked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it, or the error, as one JSON object.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Where to draw clips before and after: a .jpg, .png or .webp.",
            show_default="contact-sheet.jpg in OUTPUT; none with --html or --json",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most clips on the sheet.")] = 12,
    peak: Annotated[
        float | None, typer.Option(min=1, help="Dense bf16 TFLOP/s of the card, where it is not known.", show_default=False)
    ] = None,
) -> None:
    """Sum up what a run made: counts, errors, speed, the slowest clips, and a picture with clips before and after.

    On the picture are failed clips first, up to a third of the rows, one of each error in turn; then those with the lowest
    sync_score; then as many others, spread evenly over the clip ids. Where the job kept its face tracks, a second picture
    shows the faces of these clips. Of an OUTPUT that is a URI, the pictures and the page are written to the current folder.
    """
    from latentsync_ray.filesystems import configured
    from latentsync_ray.report import FORMATS, PAGES, contact_sheet, faces_sheet, summarise, write_page
    from latentsync_ray.storage import is_remote

    if sheet and sheet.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"it is a picture: name a file that ends in {', '.join(FORMATS)}", param_hint="--sheet")
    if page and not html:
        raise typer.BadParameter("it is written with --html only: add that, or leave the name out", param_hint="PAGE")
    if page and page.suffix.lower() not in PAGES:
        raise typer.BadParameter(f"it is a page: name a file that ends in {' or '.join(PAGES)}", param_hint="PAGE")
    with ExitStack() as stack:
        failing = stack.enter_context(ErrorsAsJson(as_json))
        job = load_job(config) if config else None
        stack.enter_context(configured(job.storage_options if job else {}))
        output = output or (job.output if job else None)
        if output is None:
            raise ConfigError("name the output of a run, or its job with --config")
        if config is None and output.endswith((".yaml", ".yml")):
            raise ConfigError(f"{output} looks like a job, not like an output; with a job, write: report --config {output}")
        numbers = summarise(output, peak=peak)
        if as_json:
            typer.echo(json.dumps(numbers.to_json(), indent=2, ensure_ascii=False, allow_nan=False))
            failing.wanted = False  # one object is enough
        else:
            _print_report(numbers)
            OUT.print()
        here = Path("" if is_remote(output) else output)
        if html:
            page = page or here / "report.html"
            write_page(numbers, page)
            _print_written("as a page", page, quiet=as_json)
        if sheet or not (html or as_json):
            sheet = sheet or here / "contact-sheet.jpg"
            contact_sheet(output, sheet, rows=rows)
            _print_written("clips before and after", sheet, quiet=as_json)
            faces = sheet.with_stem(f"{sheet.stem}-faces")
            if faces_sheet(output, faces, rows=rows):
                _print_written("faces, and who got the speech", faces, quiet=as_json)


def _print_written(what: str, path: Path, *, quiet: bool) -> None:
    """Where something was written; on stderr if stdout shall have nothing else."""
    (ERR if quiet else OUT).print(f"{what}: [bold]{escape(str(path))}[/]", soft_wrap=True)


def _print_report(numbers: Report) -> None:
    failed = f", [red]{numbers.failed} failed[/]" if numbers.failed else ""
    OUT.print(
        f"[bold]{numbers.ok} of {numbers.clips} clips ok[/]{failed}  {escape(redact.shown(numbers.output))}", soft_wrap=True
    )
    if numbers.last_finished_at:
        OUT.print(
            f"finished from {numbers.first_finished_at:%Y-%m-%d %H:%M:%S} to {numbers.last_finished_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    OUT.print(f"{numbers.frames} frames, {duration(numbers.output_seconds)} of video, {size(numbers.bytes)}")
    if numbers.cost is not None:
        OUT.print(f"${numbers.cost:.4f} by the server's tariff")
    if numbers.frames_without_face:
        OUT.print(f"{numbers.frames_without_face} frames in which no face got the speech, left as they were")

    if numbers.failures:
        failures = table("error", "clips", "try again?", "for example")
        for each in numbers.failures:
            example = " ".join(f"{_named(each.examples[0])}: {each.examples[0].message}".split())
            failures.add_row(f"[red]{escape(each.code)}[/]", str(each.count), numbers.tried_again(each), escape(example))
        OUT.print()
        show(failures)

    stages = table("stage", "work, s", "frames/s per worker")
    for stage, seconds in numbers.stage_seconds.items():
        rate = numbers.frames_per_second.get(stage)
        stages.add_row(stage, f"{seconds:.1f}", f"{rate:.1f}" if rate else "-")
    OUT.print()
    show(stages)
    if numbers.speed:
        OUT.print(escape(numbers.speed), soft_wrap=True)

    slowest = table("slowest clips", "work", "frames")
    for clip in numbers.slowest[:_NAMED]:
        slowest.add_row(escape(_named(clip)), duration(clip.seconds), str(clip.frames))
    OUT.print()
    show(slowest)

    if numbers.least_in_sync:
        lagging = table("least in sync", "sync_score", "offset", "frames")
        for clip in numbers.least_in_sync[:_NAMED]:
            offset = "-" if clip.sync_offset_ms is None else f"{clip.sync_offset_ms:+.0f} ms"
            lagging.add_row(escape(_named(clip)), f"{clip.sync_score:.2f}", offset, str(clip.frames))
        OUT.print()
        show(lagging)

    if any(row.language for row in numbers.languages):
        languages = table("language", "clips", "failed", "frames", "video")
        for row in numbers.languages:
            known = [str(row.clips), str(row.failed), str(row.frames), duration(row.seconds)]
            languages.add_row(escape(row.language or "not told"), *known)
        OUT.print()
        show(languages)


def _named(clip: Example | SlowClip | OutOfSync) -> str:
    return f"{clip.clip_id} ({clip.language})" if clip.language else clip.clip_id
