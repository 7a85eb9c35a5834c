"""Reading frames: random access is a sequential pass, pictures are upright, damage is contained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_clips import damage, moving, opened, speech_like, write_clip

from latentsync_ray.errors import UnreadableVideo
from latentsync_ray.media import decode
from latentsync_ray.media.decode import FrameReader, Picture, read_frames
from latentsync_ray.media.index import VideoIndex

COUNT = 40
X265 = "log-level=none:keyint=12:min-keyint=12"
VARIABLE = np.cumsum([33, 50, 10, 100] * 10).tolist()
SOURCES = {
    "b-frames.mp4": {"options": {"bf": "3"}},
    "b-frames.mkv": {"options": {"bf": "3"}},
    "b-frames.ts": {"options": {"bf": "3"}},
    "b-frames.flv": {"options": {"bf": "3"}},
    "b-frames.avi": {"options": {"bf": "3"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "open-gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "open-gop.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}},
    "refresh.ts": {"options": {"x264-params": "intra-refresh=1"}},
    "one-gop.mp4": {"gop": 250},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": X265}},
    "hevc-open.mp4": {"codec": "libx265", "options": {"x265-params": X265 + ":open-gop=1"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "variable.mp4": {"times": VARIABLE},
    "variable.mkv": {"times": VARIABLE},
    "late.mp4": {"offset": 0.5, "audio": speech_like(2, 44_100, 2)},
    "ten-bit.mp4": {"pix_fmt": "yuv420p10le"},
    "4-2-2.mp4": {"pix_fmt": "yuv422p"},
    "pictures.gif": {"codec": "gif", "pix_fmt": "bgr8"},
    "rgb.mkv": {"codec": "libx264rgb", "pix_fmt": "rgb24"},
}


def read_all(path: Path, index: VideoIndex) -> dict[int, Picture]:
    return dict(read_frames(path, index, np.arange(len(index), dtype=np.int32)))


def same(one: Picture, other: Picture) -> bool:
    a, b = one.planes(), other.planes()
    return np.array_equal(one.rgb(), other.rgb()) and all(map(np.array_equal, (a.y, a.u, a.v), (b.y, b.u, b.v)))


def distance(picture: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(picture.astype(int) - other).mean())


@pytest.mark.parametrize("name", SOURCES)
def test_random_access_is_a_sequential_pass(tmp_path, probe, name: str) -> None:
    frames = moving(COUNT)
    path = write_clip(tmp_path / name, frames, **SOURCES[name])
    index = probe(path)
    whole = read_all(path, index)
    assert list(whole) == list(range(COUNT))
    for row, picture in whole.items():  # the right frame: nearer to its own picture than to its neighbours'
        near = [distance(picture.rgb(), frames[other]) for other in (max(row - 1, 0), row, min(row + 1, COUNT - 1))]
        assert near[1] == min(near)
        assert not picture.corrupt
    for start in range(0, COUNT, 5):
        rows = np.array([start, start, start + 1, start + 4], np.int32)
        some = dict(read_frames(path, index, rows))
        assert list(some) == sorted(set(rows.tolist()))
        assert all(same(picture, whole[row]) and not picture.corrupt for row, picture in some.items())


def test_each_distinct_row_comes_once_and_none_for_none(tmp_path, probe) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(6))
    index = probe(path)
    assert [row for row, _ in read_frames(path, index, np.array([1, 1, 1, 3, 3], np.int32))] == [1, 3]
    assert list(read_frames(path, index, np.zeros(0, np.int32))) == []


def test_a_single_frame(tmp_path, probe) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(1))
    assert [row for row, _ in read_frames(path, probe(path), np.zeros(3, np.int32))] == [0]


def woven(count: int, bottom_first: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Interlaced pictures of a pattern that moves fast, and the same as they are at the time of the first field."""
    wave = 128 + 90 * np.sin(np.arange(96 + 12 * count) / 4)
    fields = [
        np.repeat(np.tile(wave[3 * k : 3 * k + 96], (64, 1))[..., None], 3, axis=2).astype(np.uint8) for k in range(2 * count)
    ]
    pictures = [first.copy() for first in fields[::2]]
    for picture, second in zip(pictures, fields[1::2], strict=True):
        picture[0 if bottom_first else 1 :: 2] = second[0 if bottom_first else 1 :: 2]
    return pictures, fields[::2]


def combs(picture: np.ndarray) -> float:
    """How much lines differ from the lines around them."""
    rows = picture[..., 1].astype(float)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


INTERLACED = {
    "top.mp4": {"options": {"crf": "5", "x264-params": "interlaced=1:tff=1:bframes=2"}},
    "bottom.mp4": {"options": {"crf": "5", "x264-params": "interlaced=1:bff=1"}},
    "open-gop.ts": {"options": {"crf": "5", "x264-params": "interlaced=1:tff=1:open-gop=1:bframes=3"}},
    "bottom-mpeg2.ts": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme", "b": "6M"}},
}


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_pictures_become_whole_ones_wherever_decoding_begins(tmp_path, probe, name: str) -> None:
    pictures, first_fields = woven(COUNT, bottom_first=name.startswith("bottom"))
    path = write_clip(tmp_path / name, pictures, **INTERLACED[name])
    index = probe(path)
    assert index.fields == ("bff" if name.startswith("bottom") else "tff")
    whole = read_all(path, index)
    assert list(whole) == list(range(COUNT))
    for row in range(1, COUNT - 1):
        assert combs(whole[row].rgb()) < 0.1 * combs(pictures[row])
        assert distance(whole[row].rgb(), first_fields[row]) < 3
    for rows in (*([start, start, start + 1, start + 4] for start in range(COUNT - 4)), [COUNT - 1]):
        some = dict(read_frames(path, index, np.array(rows, np.int32)))
        assert all(same(picture, whole[row]) for row, picture in some.items())


def test_a_progressive_stream_is_left_alone_and_a_lost_interlaced_picture_is_replaced(tmp_path, probe) -> None:
    pictures, _ = woven(COUNT)
    plain = write_clip(tmp_path / "a.mp4", pictures, options={"crf": "5"})
    assert probe(plain).fields is None
    assert combs(read_all(plain, probe(plain))[9].rgb()) > 0.9 * combs(pictures[9])
    path = write_clip(tmp_path / "b.mp4", pictures, gop=1, options={"x264-params": "interlaced=1:tff=1"})
    whole = read_all(path, probe(path))
    damage(path, [17])
    for rows in (np.arange(COUNT), np.arange(17, 22), np.arange(18, 20)):
        for row, picture in read_frames(path, probe(path), rows):
            if row == 17:
                assert picture.corrupt
            elif row not in (16, 18):  # its neighbours
                assert same(picture, whole[row])


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_pictures_stand_upright(tmp_path, probe, rotation: int, hflip: bool) -> None:
    plain = write_clip(tmp_path / "a.mp4", moving(2))
    turned = write_clip(tmp_path / "b.mp4", moving(2), rotation=rotation, hflip=hflip)
    stored, shown = read_all(plain, probe(plain))[0], read_all(turned, probe(turned))[0]
    matrix = display_matrix(turned)
    assert np.array_equal(shown.rgb(), mapped(stored.rgb(), matrix))
    for mine, other in ((shown.planes().y, stored.planes().y), (shown.planes().v, stored.planes().v)):
        assert np.array_equal(mine, mapped(other, matrix))


def display_matrix(path: Path) -> np.ndarray:
    with opened(path) as container:
        side_data = {entry.type.name: bytes(entry) for entry in next(container.decode(video=0)).side_data}  # type: ignore[misc]
    if "DISPLAYMATRIX" not in side_data:
        return np.eye(2, dtype=int)
    return np.rint(np.frombuffer(side_data["DISPLAYMATRIX"], np.int32).reshape(3, 3)[:2, :2] / 65536).astype(int)


def mapped(stored: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Every pixel where ISO/IEC 14496-12 puts it: (x', y') = (x, y) times the matrix, moved into view."""
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    places = np.stack([x, y], -1) @ matrix
    places -= places.min((0, 1))
    shown = np.empty((places[..., 1].max() + 1, places[..., 0].max() + 1, *stored.shape[2:]), stored.dtype)
    shown[places[..., 1], places[..., 0]] = stored
    return shown


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv444p"), ("libvpx-vp9", "yuv420p")])
@pytest.mark.parametrize("rotation", [0, 90])
def test_odd_sizes_are_padded_in_planes_only(tmp_path, probe, codec: str, pix_fmt: str, rotation: int) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(3, 67, 51), codec=codec, pix_fmt=pix_fmt, rotation=rotation)
    index = probe(path)
    picture = read_all(path, index)[2]
    width, height = (51, 67) if rotation else (67, 51)
    planes = picture.planes()
    assert (index.width, index.height) == (width, height)
    assert picture.rgb().shape == (height, width, 3)
    assert planes.y.shape == (height + 1, width + 1)
    assert planes.u.shape == planes.v.shape == ((height + 1) // 2, (width + 1) // 2)
    assert np.array_equal(planes.y[-1], planes.y[-2])
    assert np.array_equal(planes.y[:, -1], planes.y[:, -2])
    assert distance(picture.rgb()[..., 1], planes.y[:height, :width]) < 40


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv422p", "yuv444p"])
def test_planes_are_writable_and_those_of_8_bit_420_are_untouched(tmp_path, probe, pix_fmt: str) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(2), pix_fmt=pix_fmt, colour=(1, 1, 1, 1))
    with opened(path) as container:
        frame = next(container.decode(video=0))
    picture = read_all(path, probe(path))[0]
    before, planes = picture.rgb().copy(), picture.planes()
    luma = frame.to_ndarray(format="yuv420p")[:64]
    assert distance(planes.y, luma) < (1 if pix_fmt.endswith("10le") else 1e-9)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = 0
    assert picture.planes().y.any()
    assert np.array_equal(picture.rgb(), before)


def test_rgb_sources_become_bt709_limited(tmp_path, probe) -> None:
    white = [np.full((32, 32, 3), value, np.uint8) for value in (255, 0)]
    path = write_clip(tmp_path / "a.mkv", white, codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"})
    pictures = read_all(path, probe(path))
    assert [int(pictures[row].planes().y[9, 9]) for row in (0, 1)] == [235, 16]
    assert [int(pictures[row].rgb()[9, 9, 0]) for row in (0, 1)] == [255, 0]


def test_a_lost_frame_is_replaced_by_the_one_before(tmp_path, probe) -> None:
    # Every picture is coded by itself, so damage to one packet loses exactly one frame.
    path = write_clip(tmp_path / "a.mp4", moving(COUNT), gop=1, codec="libx264")
    whole = read_all(path, probe(path))
    damage(path, [17, 18])
    index = probe(path)
    assert len(index) == COUNT
    for rows in (np.arange(COUNT), np.arange(17, 22), np.array([18])):
        for row, picture in read_frames(path, index, rows):
            assert picture.corrupt == (row in (17, 18))
            if row not in (17, 18):
                assert same(picture, whole[row])
            assert distance(picture.rgb(), whole[row].rgb()) < 60


def test_damage_inside_a_group_stays_in_the_group(tmp_path, probe) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(COUNT), gop=10, options={"bf": "2"})
    whole = read_all(path, probe(path))
    damage(path, [10, 13])  # a keyframe and a picture after it
    damaged = read_all(path, probe(path))
    assert list(damaged) == list(range(COUNT))
    assert any(damaged[row].corrupt for row in range(10, 20))
    for row in (*range(9), *range(20, COUNT)):
        assert same(damaged[row], whole[row])
    some = dict(read_frames(path, probe(path), np.arange(12, 25)))
    assert list(some) == list(range(12, 25))
    assert all(same(some[row], whole[row]) for row in range(20, 25))


def test_nothing_decodes(tmp_path, probe) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(12))
    index = probe(path)
    damage(path, range(12))
    with pytest.raises(UnreadableVideo, match="can be decoded"):
        probe(path)
    with pytest.raises(UnreadableVideo, match=r"a\.mp4: no h264 frame can be decoded from frame 3 on"):
        list(read_frames(path, index, np.array([3, 4])))


def test_real_footage(clips: Path, probe) -> None:
    path = clips / "demo2_video.mp4"
    index = probe(path)
    rows = np.array([247, 249, 250, 251, 253])  # across a keyframe
    assert index.key_pts.tolist() == [0, 128_000, 256_000]
    whole = {row: picture for row, picture in read_frames(path, index, np.arange(254)) if row in rows}
    some = dict(read_frames(path, index, rows[2:])) | dict(read_frames(path, index, rows[:2]))
    assert sorted(some) == rows.tolist()
    assert all(same(some[row], whole[row]) for row in some)


@pytest.mark.parametrize("gop", [5, 60])
def test_a_reader_goes_on_where_it_was_and_shows_the_same(tmp_path, probe, monkeypatch: pytest.MonkeyPatch, gop: int) -> None:
    path = write_clip(tmp_path / "v.mp4", moving(60), gop=gop)
    index = probe(path)
    decoded = []
    original = decode._decoded

    def counted(*args, **options):
        for each in original(*args, **options):
            decoded.append(each[0])
            yield each

    monkeypatch.setattr(decode, "_decoded", counted)
    reader = FrameReader()
    stretches = [range(20), range(20, 40), [40, 45], [45, 50], range(55, 60), range(10, 15)]
    for stretch in stretches:
        rows = np.array(stretch, np.int32)
        alone = {row: picture.rgb().copy() for row, picture in read_frames(path, index, rows)}
        del decoded[:]
        on = {row: picture.rgb().copy() for row, picture in reader.read(path, index, rows)}
        assert alone.keys() == on.keys()
        assert all(np.array_equal(alone[row], on[row]) for row in alone)
        if stretch == range(20, 40):
            assert decoded == list(range(20, 40)), "no frame twice"
    assert next(reader.read(path, index, np.array([3, 4], np.int32)))[0] == 3  # given up in the middle
    assert [row for row, _ in reader.read(path, index, np.array([4, 5], np.int32))] == [4, 5]


@pytest.mark.parametrize("box", [(31, 21, 61, 55), (-10, -4, 20, 300), (0, 0, 96, 64), (200, 200, 300, 300)])
@pytest.mark.parametrize("rotation", [0, 90])
def test_a_part_has_the_pixels_of_the_whole(tmp_path, probe, box: tuple[int, int, int, int], rotation: int) -> None:
    path = write_clip(tmp_path / "v.mp4", moving(3), rotation=rotation)
    for _, picture in read_frames(path, probe(path), np.arange(3, dtype=np.int32)):
        whole = picture.rgb().copy()
        part, (x, y) = picture.rgb_within(box)
        assert np.array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]])
        height, width = whole.shape[:2]
        if box[0] < width and box[1] < height:
            assert x <= max(box[0], 0)
            assert x + part.shape[1] >= min(box[2], width)
            assert y + part.shape[0] >= min(box[3], height)


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv420p"), ("libx264", "yuv444p"), ("libx264", "yuv420p10le")])
@pytest.mark.parametrize("size", [(640, 480), (96, 64), (1000, 998)])
def test_some_pixels_are_about_those_of_the_whole(
    tmp_path, probe, size: tuple[int, int], codec: str, pix_fmt: str, rotation: int
) -> None:
    """Chroma is not interpolated where it is taken as stored. What follows cuts must see the same in every format."""
    ramp = np.linspace(20, 230, size[0])[None, :, None] * [0.9, 0.6, 0.3] + np.linspace(0, 25, size[1])[:, None, None]
    path = write_clip(tmp_path / "v.mp4", [ramp.astype(np.uint8)], codec=codec, pix_fmt=pix_fmt, rotation=rotation)
    ((_, picture),) = read_frames(path, probe(path), np.zeros(1, np.int32))
    few, whole = picture.sparse(), picture.rgb()
    step = round(whole.shape[1] / few.shape[1])
    assert min(few.shape[:2]) >= 8
    assert np.abs(few.astype(int) - whole[::step, ::step][: few.shape[0], : few.shape[1]]).mean() < 4


def test_a_stream_that_changes_its_size_keeps_the_size_of_the_first_picture(tmp_path, probe) -> None:
    """As in calls and adaptive recordings: no cut is seen for it."""
    parts = [write_clip(tmp_path / f"{width}.ts", moving(3, width, width // 2), codec="mpeg2video") for width in (192, 96)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    index = probe(path)
    pictures = [picture for _, picture in read_frames(path, index, np.arange(len(index), dtype=np.int32))]
    assert len({picture.rgb().shape for picture in pictures}) == 1
    assert len({picture.sparse().shape for picture in pictures}) == 1
