"""Saving a sheet as a picture that can be mailed: PNG, JPEG or WebP by its name, and never 1 MB or more."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from latentsync_ray.errors import ConfigError

__all__ = ["FORMATS", "check_name", "save"]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Name's ending -> Pillow's name of the format."""
_MOST_BYTES = 1_000_000
_QUALITIES = (85, 80, 75, 70)
"""Of JPEG and WebP; below that, mouths blur more than in a smaller picture."""
_SHRINK = 0.85
_PALETTE_STEP = 8
"""The palette of a PNG is made from every so many pixels in both directions."""


def check_name(path: Path) -> None:
    """Raise ConfigError for a name that says no format."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: a sheet is a picture; name a file that ends in {', '.join(FORMATS)}")


def save(picture: Image.Image, path: Path) -> None:
    """Write ``picture`` in the format that its name says, in the best quality and size below 1 MB.

    A PNG that is too big gets 256 colours and fewer pixels; JPEG and WebP of many clips look better. Raises ConfigError when it
    cannot be written.
    """
    encoded = next(each for each in _encodings(picture, FORMATS[path.suffix.lower()]) if len(each) < _MOST_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    except OSError as error:
        raise ConfigError(f"cannot write the sheet {path}: {error.strerror}; name another place for it") from error


def _encodings(picture: Image.Image, format_name: str) -> Iterator[bytes]:
    """Best first, without end: ever smaller ones after those in full size."""
    if format_name == "PNG":
        yield _encoded(picture, "PNG")
        # This method keeps rare colours, such as lips and the dots of a status, which the others turn yellow or grey. From all
        # pixels it would take a minute.
        palette = picture.reduce(_PALETTE_STEP).quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    for step in count():
        scale = _SHRINK**step
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        smaller = picture.resize(size, Image.Resampling.LANCZOS) if step else picture
        if format_name == "PNG":
            yield _encoded(smaller.quantize(palette=palette, dither=Image.Dither.NONE), "PNG", optimize=True)
        else:
            yield from (_encoded(smaller, format_name, quality=quality) for quality in _QUALITIES)


def _encoded(picture: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format_name, **options)
    return buffer.getvalue()
