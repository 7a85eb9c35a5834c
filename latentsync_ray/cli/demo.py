"""``demo``: the shipped clip through the shipped job, so that a first run needs neither data nor downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from latentsync_ray.cli.dub import print_summary
from latentsync_ray.cli.terminal import OUT, table
from latentsync_ray.config import build_job
from latentsync_ray.progress import make_progress

__all__ = ["demo"]

_JOB = {"recipe": {"model": "tiny-random", "steps": 4}}
"""Random weights look the same after 4 steps as after 20."""
_INTRODUCTION = """\
Lip-syncing the shipped portrait to other speech, on this machine's CPUs, with a tiny model of [bold]random weights[/]:
every stage is the real one, but the mouth comes out as noise. Models that can speak: [bold]latentsync-ray models[/]
"""
_WHAT = {
    ".mp4": "the portrait, lip-synced to other speech",
    ".png": "frames before and after",
    ".parquet": "the table of clips: one row each",
}


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write.")] = Path("demo-output"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Override values of the job, e.g. recipe.seed=7.")
    ] = None,
) -> None:
    """Lip-sync the clip that ships with the package: no GPU, no download, about a minute."""
    from latentsync_ray import assets
    from latentsync_ray.report import contact_sheet
    from latentsync_ray.run import run as run_job

    OUT.print(_INTRODUCTION)
    tree = {"manifest": str(assets.demo_video().parent), "output": str(output), **_JOB}
    summary = run_job(build_job(tree, *(overrides or ()), source="demo"), progress=make_progress())
    print_summary(summary)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    contact_sheet(str(output), output / "before-after.png")

    written = table("written", "size", "what it is")
    for path in sorted(path for path in output.rglob("*") if path.suffix in _WHAT):
        written.add_row(escape(str(path)), f"{path.stat().st_size / 1e3:.0f} kB", _WHAT[path.suffix])
    OUT.print()
    OUT.print(written)
