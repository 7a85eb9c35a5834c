"""``verify``: what a file says of its own making, and whether its signature holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from latentsync_ray.cli.ending import ErrorsAsJson
from latentsync_ray.cli.terminal import OUT, show, table
from latentsync_ray.errors import ClipError, ConfigError

__all__ = ["verify"]

_STATES = {
    "Trusted": "[green]the signature holds, and leads to a certificate that you trust[/]",
    "Valid": "[green]the signature holds[/]; who signed is told by the certificate alone (--trust)",
    "Invalid": "[bold red]the signature does not hold[/]",
}


def verify(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An MP4, or a URI of one.")],
    trust: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Certificates that a signer's may lead to.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it, or the error, as one JSON object.")] = False,
) -> None:
    """Tell what a file says of its own making (XMP and Content Credentials), and whether its signature holds.

    Exit code 0: it says something, and its signature holds if it has one. 1: it says nothing, or the signature does not hold.
    """
    with ErrorsAsJson(as_json) as failing:
        told = _told(file, trust)
        if as_json:
            typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
            failing.wanted = False  # one object is enough
        else:
            _print(told)
        if told["credentials"] == "Invalid" or not (told["xmp"] or told["credentials"]):
            raise typer.Exit(1)


def _told(file: str, trust: Path | None) -> dict[str, Any]:
    from latentsync_ray import redact, storage
    from latentsync_ray.media.provenance import provenance_of

    try:
        anchors = trust.read_text(encoding="utf-8") if trust else None
        return {"file": redact.shown(file), **provenance_of(storage.fetch(file), anchors=anchors)}
    except ClipError as error:
        raise ConfigError(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--trust {trust} cannot be read: {error}") from error


def _print(told: dict[str, Any]) -> None:
    OUT.print(f"[bold]{escape(told['file'])}[/]", soft_wrap=True)
    if not (told["xmp"] or told["credentials"]):
        OUT.print("says nothing of its own making: no XMP and no Content Credentials")
        return
    if told["xmp"]:
        said = table("XMP", "")
        for name, value in told["xmp"].items():
            said.add_row(escape(name), escape(value))
        show(said)
    if not told["credentials"]:
        OUT.print("not signed: anyone could have written this, or changed the file since")
        return
    OUT.print(f"Content Credentials: {_STATES[told['credentials']]}", soft_wrap=True)
    for problem in told["problems"]:
        OUT.print(f"  [red]{escape(problem)}[/]", soft_wrap=True)
    if told.get("signed_by"):
        when = told.get("signed_at") or "at a time that nobody vouches for"
        OUT.print(f"signed by {escape(str(told['signed_by']))} ({escape(str(told['issuer']))}), {when}", soft_wrap=True)
    for each in told.get("actions", []):
        OUT.print(f"  {escape(' '.join(each.values()))}", soft_wrap=True)
    for each in told.get("ingredients", []):
        own = {None: "", "Valid": ", with credentials of its own"}
        own = own.get(each["credentials"], ", with credentials of its own [red]that did not hold[/]")
        digest = f", SHA-256 {each['sha256']}" if each["sha256"] else ""
        OUT.print(f"  made of {escape(str(each['title']))}{digest}{own}", soft_wrap=True)
