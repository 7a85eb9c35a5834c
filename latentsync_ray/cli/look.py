"""``report``: what a run made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from latentsync_ray import redact
from latentsync_ray.cli.terminal import OUT, duration, show, size, table

if TYPE_CHECKING:
    from latentsync_ray.report import Report

__all__ = ["report"]


def report(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output of a run: a folder or URI.")],
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Where to draw clips before and after: a .jpg, .png or .webp.",
            show_default="contact-sheet.jpg in OUTPUT",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most clips on the sheet.")] = 12,
    peak: Annotated[
        float | None, typer.Option(min=1, help="Dense bf16 TFLOP/s of the card, where it is not known.", show_default=False)
    ] = None,
) -> None:
    """Sum up what a run made: counts, errors, speed, the slowest clips, and a picture with clips before and after.

    On the picture are failed clips first, up to a third of the rows, one of each error in turn; then those with the lowest
    sync_correlation; then as many others, spread evenly over the clip ids. Where the job kept its face tracks, a second picture
    shows the faces of these clips.
    """
    from latentsync_ray.report import FORMATS, contact_sheet, faces_sheet, summarise
    from latentsync_ray.storage import is_remote

    if sheet and sheet.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"it is a picture: name a file that ends in {', '.join(FORMATS)}", param_hint="--sheet")
    _print_report(summarise(output, peak=peak))
    sheet = sheet or Path("" if is_remote(output) else output) / "contact-sheet.jpg"
    contact_sheet(output, sheet, rows=rows)
    OUT.print(f"\nclips before and after: [bold]{escape(str(sheet))}[/]", soft_wrap=True)
    faces = sheet.with_stem(f"{sheet.stem}-faces")
    if faces_sheet(output, faces, rows=rows):
        OUT.print(f"faces, and who got the speech: [bold]{escape(str(faces))}[/]", soft_wrap=True)


def _print_report(numbers: Report) -> None:
    failed = f", [red]{numbers.failed} failed[/]" if numbers.failed else ""
    OUT.print(
        f"[bold]{numbers.ok} of {numbers.clips} clips ok[/]{failed}  {escape(redact.shown(numbers.output))}", soft_wrap=True
    )
    OUT.print(f"{numbers.frames} frames, {duration(numbers.output_seconds)} of video, {size(numbers.bytes)}")
    if numbers.cost is not None:
        OUT.print(f"${numbers.cost:.4f} by the server's tariff")
    if numbers.frames_without_face:
        OUT.print(f"{numbers.frames_without_face} frames in which no face got the speech, left as they were")

    if numbers.failures:
        failures = table("error", "clips", "try again?", "for example")
        for each in numbers.failures:
            if numbers.cost is None:
                again = "by itself in the next run" if each.transient else "with --retry failed"
            else:  # a server's: nothing is made again unless somebody asks
                again = "when asked again" if each.transient else "no"
            failures.add_row(
                f"[red]{each.code}[/]",
                str(each.count),
                again,
                escape(redact.text(" ".join(f"{each.clip_id}: {each.message}".split()))),
            )
        OUT.print()
        show(failures)

    stages = table("stage", "seconds of one worker", "frames/s of one worker")
    for stage, seconds in numbers.stage_seconds.items():
        rate = numbers.frames_per_second.get(stage)
        stages.add_row(stage, f"{seconds:.1f}", f"{rate:.1f}" if rate else "-")
    OUT.print()
    show(stages)
    if numbers.speed:
        OUT.print(escape(numbers.speed), soft_wrap=True)

    slowest = table("slowest clips", "work", "frames")
    for clip in numbers.slowest:
        slowest.add_row(escape(clip.clip_id), duration(clip.seconds), str(clip.frames))
    OUT.print()
    show(slowest)
