"""``init``: one of the files of ``configs/``, which travel with the package, as the start of a job or server of one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

import latentsync_ray
from latentsync_ray.cli.terminal import ERR, OUT, show, table
from latentsync_ray.errors import ConfigError

__all__ = ["init"]

_HOUSE = Path(latentsync_ray.__file__).parent
_ASSETS = "latentsync_ray/assets"
"""How a file of the repository names the shipped clip."""


def _names() -> list[str]:
    return [path.stem for path in _files()]


def init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which one; without a name they are listed.", autocompletion=_names)
    ] = None,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Where to: a file or folder.", show_default="NAME.yaml here")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented job, or a server's settings, to start from."""
    files = {file.stem: file for file in _files()}
    if name is None:
        listing = table("name", "what it is")
        for each, file in files.items():
            listing.add_row(f"[bold]{each}[/]", escape(_title(file)))
        show(listing)
        ERR.print("[dim]latentsync-ray init NAME writes it into the current folder[/]")
        return
    if name not in files:
        raise ConfigError(f"there is no example {name!r}; known: {', '.join(files)}")
    target = path or Path(f"{name}.yaml")
    if target.is_dir():
        target /= f"{name}.yaml"
    text = files[name].read_text(encoding="utf-8").replace(f"configs/{name}.yaml", str(target))
    text = re.sub(rf"{re.escape(_ASSETS)}\b", lambda _: json.dumps(str(_HOUSE / "assets"), ensure_ascii=False), text)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{target} exists already: name another file, or replace it with --force") from error
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
    command = "serve" if name == "serve" else "run"
    OUT.print(f"[bold]{escape(str(target))}[/]  edit it, then: latentsync-ray {command} {escape(str(target))}", soft_wrap=True)


def _files() -> list[Path]:
    """In the package when it was installed as a wheel, beside it in a checkout."""
    return sorted((_HOUSE / "configs").glob("*.yaml")) or sorted((_HOUSE.parent / "configs").glob("*.yaml"))


def _title(file: Path) -> str:
    """The first comment up to where it says how to start it."""
    return re.split(r"[:,;] (?=latentsync-ray|for )", file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))[0]
