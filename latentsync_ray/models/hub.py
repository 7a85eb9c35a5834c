"""Hugging Face repositories, as ``hf://owner/name[@revision]``: what of them is on this machine, and how to bring the rest.

Knows the hub's client and nothing of models. A revision that is a commit is on this machine or not; nobody has to be asked.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HUB", "cached_snapshot", "download", "hub_errors", "page", "published_names", "size", "split_place"]

HUB = "hf://"

_EVERY = 10.0
"""Seconds between two lines about a download."""
_PATIENCE = 20.0
"""Seconds for the hub to list a repository."""


def split_place(place: str) -> tuple[str, str | None]:
    """``hf://owner/name@revision`` as (owner/name, revision); the revision is None when none is named."""
    repository, _, revision = place.removeprefix(HUB).partition("@")
    return repository, revision or None


def page(place: str) -> str:
    """Where people find the repository."""
    return f"huggingface.co/{split_place(place)[0]}"


def hub_errors() -> tuple[type[Exception], ...]:
    """What the client raises when the hub, or the way to it, fails."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its first base is the root of errors of the HTTP library below, which was three different ones over the years.
    return OSError, ValueError, HfHubHTTPError.__mro__[1]


def cached_snapshot(place: str, names: Sequence[str]) -> Path | None:
    """The folder of the repository in the hub's cache, which may lack some of ``names``; None when there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = split_place(place)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*names], local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def published_names(place: str) -> set[str]:
    """Names of the files that the hub has at that revision. Raises one of ``hub_errors``."""
    from huggingface_hub import HfApi

    repository, revision = split_place(place)
    info = HfApi().model_info(repository, revision=revision, timeout=_PATIENCE)
    return {file.rfilename for file in info.siblings or []}


def download(
    place: str,
    names: Sequence[str],
    *,
    into: Path | None = None,
    say: Callable[[str], None] | None = None,
    bar: bool = False,
) -> Path:
    """Bring those of ``names`` that the repository has, and give their folder: one in the hub's cache, or ``into``.

    With ``bar``, a bar shows the progress if stderr is a terminal; otherwise ``say`` is told of it every ten seconds.
    Raises one of ``hub_errors``.
    """
    from huggingface_hub import snapshot_download

    there = published_names(place)  # one short question, which also finds out at once that the hub cannot be reached
    wanted = [name for name in names if name in there]
    if not wanted:
        raise FileNotFoundError(f"the repository has none of {', '.join(names)}")
    repository, revision = split_place(place)
    bar = bar and sys.stderr.isatty()
    told = _telling(repository, None if bar else say, bar=bar)
    folder = snapshot_download(repository, revision=revision, allow_patterns=wanted, local_dir=into, tqdm_class=told)
    return Path(folder)


def _telling(repository: str, say: Callable[[str], None] | None, *, bar: bool) -> type[Any]:
    """The hub's progress bar, or, without ``bar``, one that nobody sees and that speaks every ten seconds."""
    from huggingface_hub.utils import tqdm

    lock, counted, began = threading.Lock(), dict[int, float](), time.monotonic()
    said = began

    class Telling(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if not bar:
                options["disable"] = True
            self._counts_bytes = options.get("unit") == "B"
            super().__init__(*arguments, **options)

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal said
            if say and self._counts_bytes:
                with lock:  # files are fetched side by side
                    counted[id(self)] = counted.get(id(self), 0) + (n or 0)
                    now = time.monotonic()
                    if now - said >= _EVERY:
                        said, done = now, max(counted.values())
                        total = f" of {size(self.total)}" if self.total else ""
                        say(f"{repository}: {size(done)}{total}, {size(done / max(now - began, 1e-9))}/s")
            return super().update(n)

    return Telling


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
