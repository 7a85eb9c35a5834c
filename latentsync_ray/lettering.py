"""Text of any script for pictures: the fonts of this machine where they have the signs, and else a transliteration.

Knows fonts and scripts; where a text stands is for whoever draws it. Colour emoji are spelled out: their fonts do not
scale.
"""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

from anyascii import anyascii
from PIL import ImageDraw, ImageFont, features

__all__ = ["draw_text", "shorten", "text_width", "wrap"]

_FONTS = (
    # Linux, where fontconfig is missing
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/noto/NotoSansArabic-Regular.ttf",
    "/usr/share/fonts/truetype/noto/NotoSansDevanagari-Regular.ttf",
    "/usr/share/fonts/truetype/freefont/FreeSans.ttf",
    # macOS
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/AppleSDGothicNeo.ttc",
    "/System/Library/Fonts/GeezaPro.ttc",
    "/System/Library/Fonts/Kohinoor.ttc",
)
_SHAPED = (
    (0x0590, 0x0DFF),
    (0x0F00, 0x109F),
    (0x1780, 0x18AF),
    (0x1A20, 0x1AAF),
    (0xA800, 0xABFF),
    (0xFB1D, 0xFDFF),
    (0xFE70, 0xFEFE),
)
"""Blocks whose letters join, stack or run from right to left: illegible unless Pillow was built with Raqm (HarfBuzz)."""
_TRIAL_SIZE = 20
_NO_SIGN = "\U0010ffff"
"""Never assigned, so that fonts draw their sign for a missing one."""
_ELLIPSIS = "..."


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, *, size: int, fill: str, right: bool = False
) -> None:
    """Draw one line, ``size`` px high, with its top left corner at ``at``, or its top right one."""
    left, baseline = at[0] - (text_width(text, size) if right else 0.0), at[1] + _font(0, size).getmetrics()[0]
    for piece, number in _pieces(text):
        font = _font(number, size)
        draw.text((left, baseline), piece, fill=fill, font=font, anchor="ls", direction=_direction(font))
        left += font.getlength(piece, direction=_direction(font))


def text_width(text: str, size: int) -> float:
    """How wide ``draw_text`` makes a line, in px."""
    fonts = [(piece, _font(number, size)) for piece, number in _pieces(text)]
    return sum(font.getlength(piece, direction=_direction(font)) for piece, font in fonts)


def shorten(text: str, size: int, width: float) -> str:
    """``text``, or as much of its beginning as fits into ``width`` px with an ellipsis."""
    if text_width(text, size) <= width:
        return text
    return text[: _fitting(text, size, width - text_width(_ELLIPSIS, size))].rstrip() + _ELLIPSIS


def wrap(text: str, size: int, width: float, *, most: int) -> list[str]:
    """``text`` in at most so many lines of ``width`` px: broken at spaces, within words only when they do not fit a line."""
    lines, left = [], " ".join(text.split())
    while left and len(lines) < most - 1:
        end = _fitting(left, size, width)
        if end < len(left) and (space := left.rfind(" ", 0, end + 1)) > 0:
            end = space
        lines.append(left[:end].rstrip())
        left = left[end:].lstrip()
    return [*lines, shorten(left, size, width)] if left else lines


def _fitting(text: str, size: int, width: float) -> int:
    """How many characters from the beginning fit, at least one; marks stay with their letters."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_width(text[:middle], size) <= width else (low, middle - 1)
    while 1 < low < len(text) and _is_mark(text[low]):
        low -= 1
    return low


@lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[tuple[str, int], ...]:
    """(what to draw, number of its font), from left to right."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))  # macOS takes file names apart: e and its accent
    text = "".join(char if char == " " or _is_drawable(char) else _spelled(char) for char in text)
    for number in range(1 + len(_found_fonts())):  # one font for all of it looks best, and keeps right-to-left text together
        if all(_has(number, char) for char in text):
            return ((text, number),)
    pieces: list[tuple[str, int]] = []
    for char in text:
        number = _font_of(char, before=pieces[-1][1] if pieces else 0)
        drawn, number = (_spelled(char), 0) if number is None else (char, number)
        if pieces and pieces[-1][1] == number:
            drawn = pieces.pop()[0] + drawn
        pieces.append((drawn, number))
    return tuple(pieces)


def _font_of(char: str, *, before: int) -> int | None:
    """The number of a font that has this sign, if possible that of the sign before it."""
    return next((number for number in (before, *range(1 + len(_found_fonts()))) if _has(number, char)), None)


def _is_drawable(char: str) -> bool:
    if unicodedata.category(char) == "Cf" or _is_mark(char):  # such as joiners
        return _shapes()
    return unicodedata.category(char)[0] != "C" and (_shapes() or not any(low <= ord(char) <= high for low, high in _SHAPED))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


def _spelled(char: str) -> str:
    """A character in ASCII: nothing for marks and letters that are not written in it, escaped when there is no better way."""
    kind = unicodedata.category(char)
    letters = "" if kind[0] == "C" else anyascii(char)
    return letters if letters or kind == "Cf" or kind[0] in "LM" else char.encode("unicode_escape").decode()


@lru_cache(maxsize=8192)
def _has(number: int, char: str) -> bool:
    """Whether a font has a sign, that is, draws another than for a missing one."""
    if char == " ":
        return True
    if unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f":  # shaping hides them, and number 0 is not shaped
        return number > 0 and _shapes()
    font = _trial_font(number)
    return font is not None and _drawn(font, char) != _drawn(font, _NO_SIGN)


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> tuple[tuple[int, int], bytes]:
    mask: Any = font.getmask(char)  # a picture of Pillow's core, which its types do not describe
    return mask.size, bytes(mask)


@lru_cache(maxsize=256)
def _trial_font(number: int) -> ImageFont.FreeTypeFont | None:
    """Without shaping, which would put a dotted circle under a lone mark; None for files that cannot be used."""
    try:
        return _font(number, _TRIAL_SIZE).font_variant(layout_engine=ImageFont.Layout.BASIC)
    except OSError:  # not a font, or one of bitmaps
        return None


@lru_cache(maxsize=64)
def _font(number: int, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own as number 0, then the machine's; raises OSError when it cannot be used in this size."""
    if number == 0:
        return ImageFont.load_default(size)  # pyright: ignore[reportReturnType] - a bitmap font only without FreeType
    path, index = _found_fonts()[number - 1]
    font = ImageFont.truetype(path, size, index=index)
    try:
        font.set_variation_by_name("Regular")  # variable fonts may begin with the thinnest
    except (OSError, ValueError):
        return font
    return font


@lru_cache(maxsize=1)
def _found_fonts() -> tuple[tuple[str, int], ...]:
    """(file, index) of this machine's fonts, best first: those that fontconfig would fall back to, or else well-known ones."""
    program = shutil.which("fc-match")
    if program is None:
        return tuple((path, 0) for path in _FONTS if Path(path).is_file())
    command = [program, "--sort", "--format", "%{file}\t%{index}\n", "sans"]
    listed = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=60).stdout
    fonts = [line.split("\t") for line in listed.splitlines() if line.count("\t") == 1]
    # The upper half of the index names an instance of a variable font.
    return tuple((path, int(index) & 0xFFFF) for path, index in fonts if index.isdigit())


@lru_cache(maxsize=1)
def _shapes() -> bool:
    return bool(features.check("raqm"))


def _direction(font: ImageFont.FreeTypeFont) -> str | None:
    """Of the line as a whole; what runs from right to left within it still does. Pillow's own font is not shaped."""
    return "ltr" if font.layout_engine == ImageFont.Layout.RAQM else None
