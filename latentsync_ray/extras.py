"""How to get the packages that only some users need, worded for the installation at hand."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["install_command"]

_HOME = Path(__file__).parent.parent
"""The checkout (also of an editable install), or the folder that pip installed into."""


def install_command(*extras: str) -> str:
    """The shell command that adds ``extras`` of this package to the running installation.

    Of an installed wheel it names the package, which pip finds installed, so that only what is missing is downloaded. Of a
    checkout it names the folder and keeps it editable.
    """
    project, names = _HOME / "pyproject.toml", ",".join(extras)
    if project.is_file() and 'name = "latentsync-ray"' in project.read_text(encoding="utf-8"):
        return f"pip install --editable {shlex.quote(f'{_HOME}[{names}]')}"
    return f"pip install 'latentsync-ray[{names}]'"
