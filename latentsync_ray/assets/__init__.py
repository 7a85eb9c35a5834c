"""The clip and the speech that ship with the package, so that a first run needs no download.

Made by ``jobs/make_demo_clip.py``. They share a stem, so that this folder is a manifest: one pair.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["demo_audio", "demo_video"]


def demo_video() -> Path:
    """A talking head, 384 x 384 px at 25 fps, about 7 s: a public-domain NASA portrait, animated, with its own speech."""
    return Path(str(files(__name__) / "demo.mp4"))


def demo_audio() -> Path:
    """Other speech, about 6 s, 16-bit mono at 22.05 kHz: what the demo makes the head say."""
    return Path(str(files(__name__) / "demo.wav"))
