from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latentsync_ray.config import Recipe
from latentsync_ray.errors import ConfigError
from latentsync_ray.media.grid import frame_grid
from latentsync_ray.media.source import probe_video
from latentsync_ray.records import Records
from latentsync_ray.report import contact_sheet, moments
from latentsync_ray.report.moments import _spread
from latentsync_ray.report.sheet import _INNER, _MOST_MOMENTS, _PICTURE_HEIGHT, _layout
from latentsync_ray.types import ClipRecord


def film(path: Path, levels: list[int], *, size: tuple[int, int] = (96, 96), fps: int = 25) -> str:
    """A video of plain grey frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def draw(folder: Path, *records: dict, rows: int = 12) -> np.ndarray:
    with Records(str(folder)) as table:
        for number, known in enumerate(records):
            row = {
                "clip_id": f"clip{number}",
                "audio": "a",
                "status": "ok",
                "fps": 25.0,
                "duration": 1.0,
                "loop_mode": "pingpong",
                **known,
            }
            table.add(ClipRecord.from_row(row))
    contact_sheet(str(folder), folder / "new" / "sheet.png", rows=rows)
    return np.asarray(Image.open(folder / "new" / "sheet.png"))


def card_heights(sheet: np.ndarray) -> list[int]:
    """Heights of the cards, told from the background by a column left of all content."""
    edges = np.flatnonzero(np.diff((sheet[:, 36] != sheet[0, 0]).any(axis=-1).astype(int)))
    return (edges[1::2] - edges[::2]).tolist()


def test_before_and_after_show_the_same_moments(tmp_path):
    """The source runs at 50 fps and is played forwards and back; the result shows what the source shows then."""
    source = list(range(20, 220, 5))  # 40 frames = 20 frames at 25 fps
    there = source[::2]
    result = [*there, *reversed(there)]
    sheet = draw(
        tmp_path,
        {
            "video": film(tmp_path / "source.mp4", source, fps=50),
            "output": film(tmp_path / "result.mp4", result),
            "frames": len(result),
        },
    )
    count, (width, height) = _layout(96, 96)
    line = sheet[sheet.shape[0] - 24 - 50 - height // 2, :, 0].astype(int)  # through the middle of the pictures
    left = 2 * 24
    for frame in _spread(len(result), count).tolist():
        before, after = line[left + width // 2], line[left + width + 2 + width // 2]
        assert abs(before - result[frame]) <= 6
        assert abs(after - result[frame]) <= 6
        left += 2 * width + 2 + 2 * 14


def test_failed_clips_show_their_source_and_their_error(tmp_path):
    seen = {"video": film(tmp_path / "a.mp4", [100] * 10), "status": "failed", "error_code": "no_face", "error": "nobody " * 60}
    unseen = {"video": str(tmp_path / "none.mp4"), "status": "failed", "error_code": "input_not_found", "error": "not there"}
    sheet = draw(tmp_path, seen, unseen)
    with_pictures, text_only = card_heights(sheet)
    assert with_pictures > _layout(96, 96)[1][1] > text_only
    assert (sheet == np.array([255, 138, 128])).all(axis=-1).sum() > 500, "errors are written in red"


def test_an_ok_clip_whose_files_are_gone_says_so(tmp_path):
    (height,) = card_heights(draw(tmp_path, {"video": "/none.mp4", "output": "/none.mp4", "frames": 5}))
    assert height < 150


@pytest.mark.parametrize("video", ["http://***@127.0.0.1:9/a.mp4?***", "data:video/mp4;base64,... (9000 characters)"])
def test_a_source_whose_address_is_not_kept_is_not_looked_for(tmp_path, monkeypatch, video):
    asked, fetch = [], moments.fetch
    monkeypatch.setattr(moments, "fetch", lambda uri: asked.append(uri) or fetch(uri))
    result = film(tmp_path / "result.mp4", [90] * 20)
    ok = {"video": video, "output": result, "frames": 20}
    failed = {"video": video, "status": "failed", "error_code": "no_face", "error": "no frame shows a face"}
    sheet = draw(tmp_path, ok, failed)
    without, with_pictures = card_heights(sheet)  # failed ones come first
    assert asked == [result]
    assert with_pictures > without
    greys = np.abs(sheet.astype(int) - 90).max(axis=-1) < 8
    assert greys[:, :800].sum() > 1000  # what it became is shown nevertheless


def test_a_clip_of_one_frame(tmp_path):
    uri = film(tmp_path / "a.mp4", [90])
    assert len(card_heights(draw(tmp_path, {"video": uri, "output": uri, "frames": 1}))) == 1


@pytest.mark.parametrize(
    ("ok", "failed", "rows", "shown"), [(9, 9, 6, 6), (1, 9, 6, 6), (2, 1, 6, 3), (9, 0, 4, 4), (0, 2, 1, 1)]
)
def test_how_many_rows(tmp_path, ok, failed, rows, shown):
    records = [{"video": "/none"}] * ok + [{"video": "/none", "status": "failed", "error_code": "no_face"}] * failed
    assert len(card_heights(draw(tmp_path, *records, rows=rows))) == shown


def test_clips_that_are_not_drawn_cost_nothing(tmp_path, monkeypatch):
    with Records(str(tmp_path)) as table:
        for number in range(50):
            table.add(ClipRecord.from_row({"clip_id": f"{number}", "video": "/none", "audio": "a", "status": "ok"}))
    made, from_row = [], ClipRecord.from_row
    monkeypatch.setattr(ClipRecord, "from_row", lambda row: made.append(row) or from_row(row))
    contact_sheet(str(tmp_path), tmp_path / "sheet.png", rows=4)
    assert len(made) == 4


def shown_levels(sheet: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Grey levels before and after, of each of the moments of a sheet with one card of square pictures."""
    _, (width, height) = _layout(96, 96)
    line = sheet[sheet.shape[0] - 24 - 50 - height // 2, :, 0].astype(int)
    lefts = [2 * 24 + number * (2 * width + 2 + 2 * 14) for number in range(count)]
    return [(line[left + width // 4], line[left + width + 2 + width // 4]) for left in lefts]


def test_a_folder_that_was_moved_shows_its_own_results(tmp_path):
    """Absolute URIs of the records lead to where another run has written since."""
    source = film(tmp_path / "source.mp4", [60] * 10)
    elsewhere = film(tmp_path / "elsewhere.mp4", [200] * 10)
    for folder in ("old", "moved"):
        (tmp_path / folder / "clips").mkdir(parents=True)
    film(tmp_path / "moved" / "clips" / "clip0.mp4", [120] * 10)
    known = {"video": source, "output": elsewhere, "output_path": "clips/clip0.mp4", "frames": 10}
    assert all(abs(after - 120) <= 6 for _, after in shown_levels(draw(tmp_path / "moved", known), 2))
    assert all(abs(after - 200) <= 6 for _, after in shown_levels(draw(tmp_path / "old", known), 2)), "as good as it can"


def test_a_result_whose_source_is_gone_is_shown_alone(tmp_path):
    sheet = draw(tmp_path, {"video": "/none.mp4", "output": film(tmp_path / "result.mp4", [120] * 10), "frames": 10})
    for before, after in shown_levels(sheet, 2):
        assert abs(after - 120) <= 6
        assert before == 0x2B, "an empty picture"


@pytest.mark.parametrize("rule", ["near", "cli"])
def test_the_source_frames_are_those_of_the_run(tmp_path, rule):
    """A source at 30 fps, with another choice of frames by the two values of ``fps_rule``."""
    levels = [40 + 18 * (number % 10) for number in range(60)]
    video = film(tmp_path / "source.mp4", levels, fps=30)
    index = probe_video(Path(video), max_pixels=10**6, max_seconds=60)
    grids = {each: frame_grid(index, Fraction(25), each) for each in ("near", "cli")}
    result = [levels[row] for row in grids[rule][:40]]
    assert result != [levels[row] for row in grids["cli" if rule == "near" else "near"][:40]]
    sheet = draw(tmp_path, {"video": video, "output": film(tmp_path / "result.mp4", result), "frames": 40})
    for before, after in shown_levels(sheet, _layout(96, 96)[0]):
        assert abs(before - after) <= 6


def test_finished_clips_above_the_default_limits_are_shown(tmp_path, monkeypatch):
    """A job may have raised them; a clip that was refused for its size is not decoded here either."""
    small = Recipe(max_pixels=1000)
    monkeypatch.setattr("latentsync_ray.report.moments.Recipe", lambda: small)
    uri = film(tmp_path / "a.mp4", [90] * 5)
    finished = {"video": uri, "output": uri, "frames": 5}
    refused = {"video": uri, "status": "failed", "error_code": "too_large", "error": "too large"}
    refused_height, finished_height = card_heights(draw(tmp_path, finished, refused))
    assert finished_height > _layout(96, 96)[1][1] > refused_height


def test_clip_ids_and_errors_of_any_script_can_be_told_apart(tmp_path):
    """Boxes for missing signs would all look the same."""

    def sheet(name: str) -> np.ndarray:
        failed = {"video": "/none", "status": "failed", "error_code": "no_face", "error": name}
        return draw(tmp_path / name, {"clip_id": name, **failed})

    one, other = sheet("\u91c7\u8bbf"), sheet("\u8f93\u5165")
    assert (one[:110] != other[:110]).any(), "the ids"
    assert (one[110:] != other[110:]).any(), "the errors"


def test_nothing_yet(tmp_path):
    with pytest.raises(ConfigError, match="has no records"):
        contact_sheet(str(tmp_path), tmp_path / "sheet.png")


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (1920, 1080), (512, 512), (100, 2000), (4000, 100)])
def test_pictures_fill_the_row_and_keep_their_shape(height, width):
    count, (across, down) = _layout(height, width)
    assert 1 <= count <= _MOST_MOMENTS
    assert count * (2 * across + 2) + (count - 1) * 28 <= _INNER
    assert down <= _PICTURE_HEIGHT
    assert abs(across * height / width - down) <= max(1, height / width), "to the nearest pixel"
