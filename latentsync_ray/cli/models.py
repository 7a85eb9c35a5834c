"""``models``: which models and detectors can be used, under which licences; ``models download`` fetches one."""

from __future__ import annotations

from importlib.util import find_spec as find_module
from typing import Annotated

import typer
from rich.markup import escape

from latentsync_ray.cli.terminal import ERR, OUT, show, size, table

__all__ = ["app", "download", "models"]

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="List models and detectors, and download them.")

_DETECTORS = (
    ("embedded", "", "LBP cascade", "BSD-3-Clause (Intel)", "the cascade's own file, scikit-image"),
    (
        "insightface",
        "insightface",
        "models buffalo_l",
        "non-commercial research only",
        "github.com/deepinsight/insightface, README",
    ),
)
"""Name, module it needs, part, licence, where that was read."""


@app.callback()
def models(context: typer.Context) -> None:
    """List the models and detectors: which are on this machine, how to get the others, and their licences."""
    if context.invoked_subcommand:
        return
    from latentsync_ray.model.source import describe_models

    rows = describe_models()
    listing = table("model", "face", "on this machine")
    for row in rows:
        found = f"[green]{escape(row.found)}[/]" if row.found else f"no; {size(row.megabytes * 1_000_000)} to download"
        listing.add_row(f"[bold]{row.name}[/]", f"{row.resolution} px", found)
    for name, module, *_ in _DETECTORS:
        here = not module or find_module(module) is not None
        found = "[green]installed[/]" if here else f"no; needs the package {module}"
        listing.add_row(f"[bold]{name}[/]", "detector", found)
    show(listing)

    whose: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for licence in row.licences:
            whose.setdefault((licence.name, licence.part, licence.source), []).append(row.name)
    for name, _, part, licence, source in _DETECTORS:
        whose.setdefault((licence, part, source), []).append(name)
    licences = table("licence", "of", "read at")
    for (licence, part, source), names in whose.items():
        licences.add_row(escape(licence), f"{', '.join(names)}: {part}", escape(source))
    OUT.print()
    show(licences)
    for row in rows:
        if not row.found:
            OUT.print(f"\n[bold]{row.name}[/]: latentsync-ray models download {row.name}, or for a machine without network:")
            OUT.print(row.how_to_get, markup=False, soft_wrap=True)


@app.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that 'latentsync-ray models' lists, or hf://OWNER/NAME.")],
) -> None:
    """Fetch a model's weights and speech encoder, and the autoencoder if need be, to this machine."""
    from latentsync_ray.model.source import find_spec, locate
    from latentsync_ray.preflight import fetch_model

    fetch_model(name, note=lambda text: ERR.print(text, highlight=False, markup=False))
    spec = find_spec(name)
    where = locate(spec).unet.parent if spec.source else "needs no files"
    OUT.print(f"[bold]{escape(name)}[/]  {escape(str(where))}", soft_wrap=True)
