"""``models`` (what can be used) and ``report`` (what was made)."""

from __future__ import annotations

from rich.markup import escape

from latentsync_ray.cli.terminal import OUT, table

__all__ = ["models"]


def models() -> None:
    """List the models by name: which are on this machine, and how to get the others."""
    from latentsync_ray.model.source import describe_models

    rows = describe_models()
    listing = table("model", "face", "on this machine", "licence")
    for row in rows:
        found = f"[green]{escape(row.found)}[/]" if row.found else f"no; {row.megabytes / 1000:.1f} GB to download"
        listing.add_row(f"[bold]{row.name}[/]", f"{row.resolution} px", found, escape(row.licence))
    OUT.print(listing)
    for row in rows:
        if not row.found:
            OUT.print(f"\n[bold]{row.name}[/] is downloaded on first use. By hand, or for a machine without network:")
            OUT.print(row.how_to_get, markup=False, soft_wrap=True)
