"""Text of any script: never a box for a missing sign, whatever fonts a machine has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from latentsync_ray import lettering
from latentsync_ray.lettering import draw_text, shorten, text_width, wrap

SCRIPTS = {
    "Chinese": ("采访", "CaiFang"),
    "Japanese": ("はじめ", "hajime"),
    "Korean": ("한국", "HanGug"),
    "Arabic": ("مرحبا", "mrhb"),
    "Hindi": ("हिन्दी", "hindi"),
    "Cyrillic": ("Привет", "Privet"),
    "Greek": ("Ωmega", "Omega"),
    "emoji": ("a👩\u200d🚀\ufe0f", "a:woman::rocket:"),
    "no script": ("a\ue000\x07b", "a\\ue000\\x07b"),
}


def forget() -> None:
    for known in (
        lettering._found_fonts,
        lettering._shapes,
        lettering._font,
        lettering._trial_font,
        lettering._has,
        lettering._pieces,
    ):
        known.cache_clear()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts."""
    monkeypatch.setattr(lettering.shutil, "which", lambda name: None)
    monkeypatch.setattr(lettering, "_FONTS", ())


@pytest.fixture
def dejavu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one font, of Latin, Greek, Cyrillic and Arabic letters: the one that matplotlib brings."""
    matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib for its font (the extra notebook)")
    monkeypatch.setattr(lettering.shutil, "which", lambda name: None)
    monkeypatch.setattr(lettering, "_FONTS", (str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"),))


def drawn(text: str) -> np.ndarray:
    picture = Image.new("L", (400, 40))
    draw_text(ImageDraw.Draw(picture), (0, 0), text, size=20, fill="white")
    return np.asarray(picture)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("text", "spelled"), SCRIPTS.values(), ids=SCRIPTS)
def test_without_fonts_every_script_is_spelled(text: str, spelled: str) -> None:
    assert "".join(piece for piece, _ in lettering._pieces(text)) == spelled
    assert (drawn(text) == drawn(spelled)).all()


@pytest.mark.usefixtures("dejavu")
def test_a_font_of_the_machine_is_used_where_it_has_the_signs() -> None:
    assert lettering._pieces("Привет №7") == (("Привет №7", 1),), "one font for the whole"
    assert lettering._pieces("plain") == (("plain", 0),)
    assert lettering._pieces("cafe\u0301") == (("caf\u00e9", 1),), "macOS takes names apart"
    assert lettering._pieces("Привет 采") == (("Привет ", 1), ("Cai", 0)), "and what it lacks is spelled"


@pytest.mark.usefixtures("dejavu")
def test_arabic_letters_join_and_run_from_right_to_left() -> None:
    if not features.check("raqm"):
        pytest.skip("needs Pillow with Raqm and FriBiDi")
    word = "مرحبا"
    font = lettering._font(1, 20)
    one_by_one = sum(font.getlength(letter) for letter in word)
    assert text_width(word, 20) < 0.9 * one_by_one, "joined letters are narrower"
    alef, beh = "\u0627", "\u0628"
    tall = np.flatnonzero(drawn(alef + beh * 8)[4:12].any(axis=0))
    assert tall.min() > 0.8 * text_width(alef + beh * 8, 20), "the tall first letter stands at the right"


@pytest.mark.usefixtures("dejavu")
def test_without_shaping_arabic_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering.features, "check", lambda name: False)
    assert lettering._pieces("مرحبا Привет") == (("mrhb Привет", 1),)


def test_no_script_becomes_a_box_with_the_fonts_of_this_machine() -> None:
    missing = [
        (char, number)
        for text, _ in SCRIPTS.values()
        for piece, number in lettering._pieces(text)
        for char in piece
        if unicodedata.category(char) not in ("Cf", "Mn") and not lettering._has(number, char)
    ]
    assert not missing


def test_a_font_that_cannot_be_read_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    monkeypatch.setattr(lettering.shutil, "which", lambda name: None)
    monkeypatch.setattr(lettering, "_FONTS", (str(tmp_path / "broken.ttf"),))
    assert lettering._pieces("采") == (("Cai", 0),)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("text", ["a sentence with words of usual length, again and again " * 4, "x" * 300, "采访第一集" * 30])
def test_lines_fit_and_lose_nothing_but_what_is_told(text: str) -> None:
    lines = wrap(text, 20, 300, most=100)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(text_width(line, 20) for line in lines) <= 300
    short = wrap(text, 20, 300, most=2)
    assert len(short) == 2
    assert short[-1].endswith("...")
    assert text_width(short[-1], 20) <= 300
    assert wrap("", 20, 300, most=3) == []


@pytest.mark.usefixtures("bare")
def test_shortening_keeps_what_fits() -> None:
    assert shorten("short", 20, 300) == "short"
    assert shorten("采访" * 40, 20, 300).endswith("...")
    assert text_width(shorten("采访" * 40, 20, 300), 20) <= 300


def test_pillows_own_font_is_number_zero() -> None:
    assert isinstance(lettering._font(0, 20), ImageFont.FreeTypeFont)
    assert lettering._has(0, "a")
    assert not lettering._has(0, "采")
