"""Sheets as files: the format that the name says, under 1 MB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentsync_ray.errors import ConfigError
from latentsync_ray.report.picture import FORMATS, check_name, save


def noise(height: int, width: int) -> Image.Image:
    """The worst that can be compressed, in soft colours."""
    return Image.fromarray(np.random.default_rng(1).integers(90, 160, (height, width, 3), np.uint8))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_big_sheet_stays_below_a_megabyte(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"sheet{ending.upper()}"
    save(noise(1000, 1600), path)
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as read:
        assert read.format == FORMATS[ending]
        assert read.width > 500


def test_a_small_png_is_lossless(tmp_path: Path) -> None:
    save(noise(300, 400), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as read:
        assert (np.asarray(read) == np.asarray(noise(300, 400))).all()


def test_a_palette_keeps_the_rare_colours(tmp_path: Path) -> None:
    picture = noise(700, 1600)
    picture.paste((255, 138, 128), (40, 40, 72, 72))
    save(picture, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as read:
        scale = read.width / 1600
        seen = np.asarray(read.convert("RGB"))[round(50 * scale), round(50 * scale)].astype(int)
    assert read.mode == "P"
    assert abs(seen - (255, 138, 128)).max() < 16


@pytest.mark.parametrize("name", ["sheet", "sheet.gif", "sheet.png.txt"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.png, \.jpg"):
        check_name(Path(name))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the sheet"):
        save(noise(10, 10), tmp_path / "file" / "sheet.png")
