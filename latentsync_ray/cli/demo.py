"""``demo``: the shipped clip through the shipped job, so that a first run needs neither data nor downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from latentsync_ray.cli.dub import print_summary
from latentsync_ray.cli.terminal import OUT, show, size, table
from latentsync_ray.job_file import build_job
from latentsync_ray.progress import display

__all__ = ["demo"]

_JOB = {"recipe": {"model": "nano", "steps": 6}}
_INTRODUCTION = "Lip-syncing the shipped clip with the model that comes with the package.\n"


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.")] = Path("demo-output"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override values of the job, e.g. recipe.seed=7.")
    ] = None,
) -> None:
    """Lip-sync the clip that ships with the package: no GPU, no download, about a minute."""
    from latentsync_ray import assets
    from latentsync_ray.driver import run as run_job
    from latentsync_ray.report import contact_sheet

    OUT.print(_INTRODUCTION)
    tree = {"manifest": str(assets.demo_video().parent), "output": str(output), **_JOB}
    job = build_job(tree, *(overrides or ()), source="demo")
    with display(job) as progress:
        summary = run_job(job, progress=progress)
    print_summary(summary)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)

    folder = Path(job.output)
    contact_sheet(job.output, folder / "before-after.png")
    written = table("written", "size", "what it is")
    rows = [(path, "the portrait, lip-synced") for path in sorted((folder / "clips").glob("*.mp4"))]
    rows += [(folder / "metadata", "one row per clip"), (folder / "before-after.png", "frames before and after")]
    here = Path.cwd()
    for path, what in rows:
        files = path.glob("*") if path.is_dir() else [path]
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        written.add_row(escape(str(shown)), size(sum(file.stat().st_size for file in files)), what)
    OUT.print()
    show(written)
