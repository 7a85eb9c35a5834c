"""``models``: which models and detectors can be used, under which licences; ``models download`` fetches one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from latentsync_ray.cli.terminal import ERR, OUT, show, size, table
from latentsync_ray.errors import ConfigError

if TYPE_CHECKING:
    from latentsync_ray.licence import Licence

__all__ = ["app", "download", "models"]

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="List models and detectors; download models.")


@app.callback()
def models(context: typer.Context) -> None:
    """List the models and detectors: which are on this machine, how to get the others, and their licences."""
    if context.invoked_subcommand:
        return
    from latentsync_ray.faces.listing import describe_detectors
    from latentsync_ray.models.find import describe_models

    rows, detectors = describe_models(), describe_detectors()
    listing = table("model", "face", "on this machine")
    for row in rows:
        found = f"[green]{escape(row.found)}[/]" if row.found else f"no; {size(row.download_bytes)} to download"
        found = "[red]incomplete, see below[/]" if row.incomplete else found
        listing.add_row(f"[bold]{row.name}[/]", f"{row.resolution} px", found)
    for detector in detectors:
        found = f"[green]{escape(detector.found)}[/]" if detector.found else "no; see below"
        listing.add_row(f"[bold]{detector.name}[/]", "detector", found)
    show(listing)

    whose: dict[Licence, list[str]] = {}
    for row in (*rows, *detectors):
        for licence in row.licences:
            whose.setdefault(licence, []).append(row.name)
    licences, notes = table("licence", "of", "stated at"), [licence.note for licence in whose if licence.note]
    for licence, names in whose.items():
        stated_at = escape(licence.stated_at) + (f" [{notes.index(licence.note) + 1}]" if licence.note else "")
        licences.add_row(escape(licence.terms), f"{', '.join(names)}: {licence.part}", stated_at)
    OUT.print()
    show(licences)
    for number, note in enumerate(notes, 1):
        OUT.print(f"[{number}] {note}", markup=False, soft_wrap=True)
    for row in rows:
        if row.incomplete:
            OUT.print(f"\n[bold]{row.name}[/]")
            OUT.print(row.incomplete, markup=False, soft_wrap=True)
        elif row.command:
            OUT.print(f"\n[bold]{row.name}[/]: {row.command}, or for a machine without network:", soft_wrap=True)
            OUT.print("\n".join(row.by_hand), markup=False, soft_wrap=True)
    for detector in detectors:
        if not detector.found and detector.command:
            OUT.print(f"\n[bold]{detector.name}[/]: {escape(detector.command)}", soft_wrap=True)


@app.command()
def download(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model that 'latentsync-ray models' lists, or hf://OWNER/NAME.")
    ],
) -> None:
    """Fetch a model's files, or those that it lacks, to this machine, and verify those that are published with it."""
    from latentsync_ray.faces.listing import describe_detectors
    from latentsync_ray.models.find import find_model

    for detector in describe_detectors():
        if detector.name == name:
            raise ConfigError(f"{name} is a detector, not a model; {detector.command or 'it is always there'}")
    say = partial(ERR.print, highlight=False, markup=False, soft_wrap=True)
    first, *others = find_model(name).complete(say=say)
    OUT.print(f"[bold]{escape(name)}[/]  {escape(first)}", soft_wrap=True)
    for line in others:
        OUT.print(escape(line), soft_wrap=True)
