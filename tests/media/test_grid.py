"""The fps grid against FFmpeg's own filter, its command line's counts, and the official loop."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from make_clips import moving, opened, rate_of, speech_like, write_clip

from latentsync_ray.media.colour import Colour
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.index import VideoIndex

RATES = ["10", "12", "23.976", "24", "25", "29.97", "30", "50", "59.94", "60", "120"]


def table(pts: list[int], durations: list[int], time_base: Fraction, start: Fraction = Fraction(0)) -> VideoIndex:
    return VideoIndex(
        pts=np.array(pts),
        durations=np.array(durations),
        key_pts=np.array(pts[:1]),
        key_dts=np.array(pts[:1]),
        time_base=time_base,
        start=start,
        rate=Fraction(25),
        timed=True,
        max_pixels=1,
        codec="none",
        pixel_format="none",
        colour=Colour(),
        coded_size=(2, 2),
    )


def steady(count: int, rate: Fraction) -> VideoIndex:
    return table(list(range(count)), [1] * count, 1 / rate)


def through_fps_filter(path: Path, fps: Fraction) -> list[int]:
    """Which source frame each output frame of FFmpeg's fps filter is, told by the pictures themselves."""
    with opened(path) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pictures = [frame.to_ndarray(format="gray").tobytes() for frame in frames]
        assert len(set(pictures)) == len(pictures)
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream), graph.add("fps", f"fps={fps}"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        start = round(Fraction(container.start_time or 0, av.time_base) / frames[0].time_base)
        out: list[int] = []
        for frame in [*frames, None]:
            if frame is not None:
                frame.pts = (frame.pts or 0) - start
            graph.push(frame)
            while True:
                try:
                    shown = graph.pull()
                except (BlockingIOError, EOFError):
                    break
                assert isinstance(shown, av.VideoFrame)
                out.append(pictures.index(shown.to_ndarray(format="gray").tobytes()))
        return out


@pytest.mark.parametrize("name", ["24.mp4", "25.mkv", "29.97.mp4", "30.ts", "59.94.mp4", "10.webm"])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001)])
def test_near_is_the_fps_filter(tmp_path, probe, name: str, fps: Fraction) -> None:
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = write_clip(tmp_path / name, moving(33, 48, 32), fps=rate_of(name.rpartition(".")[0]), codec=codec)
    assert frame_grid(probe(path), fps, "near").tolist() == through_fps_filter(path, fps)


def test_near_is_the_fps_filter_for_variable_rates(tmp_path, probe) -> None:
    times = np.cumsum([33, 50, 10, 100, 41] * 7).tolist()
    path = write_clip(tmp_path / "a.mp4", moving(35, 48, 32), times=times, offset=0.3)
    assert frame_grid(probe(path), Fraction(25), "near").tolist() == through_fps_filter(path, Fraction(25))
    late = write_clip(tmp_path / "b.mkv", moving(35, 48, 32), times=times, offset=0.3, audio=speech_like(1, 44_100))
    grid = frame_grid(probe(late), Fraction(25), "near").tolist()
    assert grid == [0] * 8 + through_fps_filter(late, Fraction(25))


@pytest.mark.parametrize("rule", ["near", "cli"])
def test_late_pictures_keep_their_place_beside_the_sound(tmp_path, probe, rule) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(10), offset=0.4, audio=speech_like(1, 44_100))
    grid = frame_grid(probe(path), Fraction(25), rule).tolist()
    assert abs(grid.index(1) - 11) <= 1  # "cli" is late or early by one, as ever
    assert grid == sorted(grid)


@pytest.mark.parametrize("rate", RATES)
def test_near_is_within_half_a_slot_and_keeps_the_length(rate: str) -> None:
    count = round(4 * rate_of(rate))
    grid = frame_grid(steady(count, rate_of(rate)), Fraction(25), "near")
    shown_at = grid / float(rate_of(rate))
    assert len(grid) == round(count / rate_of(rate) * 25)
    assert (np.diff(grid) >= 0).all()
    late = np.arange(len(grid)) / 25 - shown_at
    assert late.min() >= -0.02 - 1e-9
    assert late.max() < 0.02 + 1 / float(rate_of(rate))


def test_cli_gives_what_ffmpeg_writes() -> None:
    # `ffmpeg -i IN -r 25 OUT.mp4`: 30 fps is shown late, and comes out two frames longer.
    thirty = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29]
    assert frame_grid(steady(30, Fraction(30)), Fraction(25), "cli").tolist() == thirty
    assert frame_grid(steady(25, Fraction(25)), Fraction(25), "cli").tolist() == list(range(25))
    assert frame_grid(steady(10, Fraction(25, 2)), Fraction(25), "cli").tolist() == [row for row in range(10) for _ in range(2)]


def test_one_frame_and_unknown_durations_give_at_least_one_frame() -> None:
    for rule in ("near", "cli"):
        assert frame_grid(table([0], [0], Fraction(1, 1000)), Fraction(25), rule).tolist()[0] == 0
        assert set(frame_grid(table([0, 40, 80], [0, 0, 0], Fraction(1, 1000)), Fraction(25), rule).tolist()) >= {0, 1}


def test_coarse_and_fine_clocks_give_one_grid() -> None:
    coarse = table([k * 40 for k in range(50)], [40] * 50, Fraction(1, 1000))
    fine = table([k * 40_000_000 for k in range(50)], [40_000_000] * 50, Fraction(1, 10**9))
    for rule in ("near", "cli"):
        assert frame_grid(coarse, Fraction(30), rule).tolist() == frame_grid(fine, Fraction(30), rule).tolist()


def test_pingpong_is_the_official_loop(reference: Path) -> None:
    cases = json.loads((reference / "pipeline_small" / "meta.json").read_text())["loop_table"]
    assert len(cases) == 7
    for case in cases:
        grid = np.arange(case["n_video_frames"], dtype=np.int32)
        assert repeat(grid, case["n_audio_chunks"], "pingpong").tolist() == case["source_index"]


def test_repeat_keeps_the_grid_and_its_type() -> None:
    grid = np.array([0, 0, 2, 5], np.int32)
    assert repeat(grid, 9, "pingpong").tolist() == [0, 0, 2, 5, 5, 2, 0, 0, 0]
    assert repeat(grid, 9, "loop").tolist() == [0, 0, 2, 5, 0, 0, 2, 5, 0]
    assert repeat(grid, 3, "loop").tolist() == [0, 0, 2]
    assert repeat(grid[:1], 3, "pingpong").tolist() == [0, 0, 0]
    assert repeat(grid, 9, "pingpong").dtype == np.int32
