"""``models`` (what can be used, and fetching it) and ``report`` (what was made)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from latentsync_ray.cli.terminal import ERR, OUT, duration, size, table

if TYPE_CHECKING:
    from latentsync_ray.model.specs import Licence
    from latentsync_ray.report import Report

__all__ = ["models", "report"]


models = typer.Typer(invoke_without_command=True, help="List models and detectors, with their terms; fetch a model.")


@models.callback()
def _list(context: typer.Context) -> None:
    """List models and detectors: which are on this machine, how to get the others, and on which terms they are published."""
    if context.invoked_subcommand:
        return
    from latentsync_ray.model.listing import describe_detectors, describe_models

    listing = table("model or detector", "terms", "on this machine, or where the terms are stated")
    rows = describe_models()
    for row in rows:
        found = f"[green]{escape(row.found)}[/]" if row.found else f"not here; {size(row.download_bytes)} to download"
        found = "[red]incomplete, see below[/]" if row.incomplete else found
        listing.add_row(f"[bold]{row.name}[/]", f"{row.resolution} px", found)
        _add_licences(listing, row.licences)
    for detector in describe_detectors():
        found = "[green]installed[/]" if detector.installed else "not installed"
        listing.add_row(f"[bold]{detector.name}[/]", "detector", found)
        _add_licences(listing, (detector.licence,))
    OUT.print(listing)
    for note in dict.fromkeys(licence.note for row in rows for licence in row.licences if licence.note):
        OUT.print(f"* {note}", markup=False)
    for row in rows:
        if row.incomplete:
            OUT.print(f"\n[bold]{row.name}[/]")
            OUT.print(row.incomplete, markup=False, soft_wrap=True)
        elif row.command:
            OUT.print(f"\n[bold]{row.name}[/] is fetched when a job begins, or by: {escape(row.command)}", soft_wrap=True)
            OUT.print("By hand, or for a machine without network:")
            OUT.print("\n".join(row.by_hand), markup=False, soft_wrap=True)


def _add_licences(listing: Table, licences: tuple[Licence, ...]) -> None:
    for licence in licences:
        listing.add_row(f"  {licence.part}", escape(licence.terms), escape(licence.stated_at) + " *" * bool(licence.note))


@models.command("download", no_args_is_help=True)
def _download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that 'latentsync-ray models' lists, or hf://OWNER/NAME.")],
) -> None:
    """Fetch a model's files, or those it lacks, and verify the published ones."""
    from latentsync_ray.model.source import find_spec, locate

    spec = find_spec(name)
    if not spec.source:
        OUT.print(f"[bold]{escape(name)}[/] needs no files")
        return
    files = locate(spec, say=lambda text: ERR.print(text, markup=False, soft_wrap=True), bar=True, complete=True)
    digest = files.digest()
    OUT.print(f"[bold]{escape(name)}[/] is complete: {escape(str(files.unet.parent))}", soft_wrap=True)
    verified = ", ".join(files.published)
    OUT.print(f"checkpoint {digest}" + (f"; as published: {verified}" if verified else ""), soft_wrap=True)


def report(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The output of a run: a folder or URI.")],
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Where to draw clips before and after.", show_default="contact-sheet.png in OUTPUT"),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Most clips on the sheet.")] = 12,
) -> None:
    """Sum up what a run made: counts, errors, speed, the slowest clips, and a picture with clips before and after."""
    from latentsync_ray.report import contact_sheet, summarise
    from latentsync_ray.storage import is_remote

    if sheet and sheet.suffix.lower() != ".png":
        raise typer.BadParameter("it is a picture: name a file that ends in .png", param_hint="--sheet")
    _print_report(summarise(output))
    sheet = sheet or Path("" if is_remote(output) else output) / "contact-sheet.png"
    contact_sheet(output, sheet, rows=rows)
    OUT.print(f"\nclips before and after: [bold]{escape(str(sheet))}[/]", soft_wrap=True)


def _print_report(numbers: Report) -> None:
    failed = f", [red]{numbers.failed} failed[/]" if numbers.failed else ""
    OUT.print(f"[bold]{numbers.ok} of {numbers.clips} clips ok[/]{failed}  {escape(numbers.output)}", soft_wrap=True)
    OUT.print(f"{numbers.frames} frames, {duration(numbers.output_seconds)} of video, {size(numbers.bytes)}")
    if numbers.cost is not None:
        OUT.print(f"${numbers.cost:.4f} by the server's tariff")
    if numbers.frames_without_face:
        OUT.print(f"{numbers.frames_without_face} frames without a usable face, left as they were")

    if numbers.failures:
        failures = table("error", "clips", "try again?", "for example")
        for each in numbers.failures:
            if numbers.cost is None:
                again = "by itself in the next run" if each.transient else "with retry_failed=true"
            else:  # a server's: nothing is made again unless somebody asks
                again = "when asked again" if each.transient else "no"
            failures.add_row(f"[red]{each.code}[/]", str(each.count), again, escape(f"{each.clip_id}: {each.message}"))
        OUT.print()
        OUT.print(failures)

    stages = table("stage", "seconds of one worker", "frames/s of one worker")
    for stage, seconds in numbers.stage_seconds.items():
        rate = numbers.frames_per_second.get(stage)
        stages.add_row(stage, f"{seconds:.1f}", f"{rate:.1f}" if rate else "-")
    OUT.print()
    OUT.print(stages)

    slowest = table("slowest clips", "work", "frames")
    for clip in numbers.slowest:
        slowest.add_row(escape(clip.clip_id), duration(clip.seconds), str(clip.frames))
    OUT.print()
    OUT.print(slowest)
