"""Makers of odd and bad files: each is called with the path to write, costs milliseconds, and holds ten frames or so."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.stream import Disposition
from eight_pairs import portrait
from make_clips import damage, opened, write_clip, write_speech

__all__ = [
    "FRAMES",
    "ONSET",
    "SECONDS",
    "Make",
    "clip",
    "cut",
    "damaged",
    "data",
    "extra_streams",
    "faces",
    "floats",
    "folder",
    "forged_size",
    "glued",
    "heard",
    "link",
    "locked",
    "renamed",
    "speech",
    "text",
    "voice",
    "with_cover",
    "write_pairs",
    "zipped",
]

Make = Callable[[Path], Any]

FRAMES, SECONDS = 10, 0.4
"""Of the usual video at 25 fps, and of the usual speech."""
ONSET = 0.12
"""Seconds of silence before the voice."""


@functools.cache
def _portrait() -> np.ndarray:
    return portrait(FRAMES)


def faces(
    width: int = 128,
    height: int = 128,
    *,
    count: int = FRAMES,
    shown: Sequence[int] | None = None,
    turned: int = 0,
    squeezed: float = 1,
) -> list[np.ndarray]:
    """A head in the middle of a grey picture, as large as fits, in the frames ``shown`` (by default all).

    Pictures are then made ``squeezed`` times as wide, and given ``turned`` quarter turns to the left.
    """
    side, pictures = min(width, height), []
    for number in range(count):
        picture = np.full((height, width, 3), 128, np.uint8)
        if shown is None or number in shown:
            top, left = (height - side) // 2, (width - side) // 2
            small = cv2.resize(_portrait()[number % FRAMES], (side, side), interpolation=cv2.INTER_AREA)
            picture[top : top + side, left : left + side] = small
        picture = cv2.resize(picture, (round(width * squeezed), height), interpolation=cv2.INTER_AREA)
        pictures.append(np.ascontiguousarray(np.rot90(picture, turned)))
    return pictures


def voice(seconds: float = SECONDS, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """Silence up to ``ONSET``, then at once a loud tone: int16 (samples, channels)."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 12_000 * np.cos(2 * np.pi * 800 * (time - ONSET)) * (time >= ONSET)
    return np.repeat(tone[:, None], channels, axis=1).astype(np.int16)


def clip(*, width: int = 128, height: int = 128, frames: list[np.ndarray] | None = None, **settings: Any) -> Make:
    """A video, by ``write_clip``'s settings."""
    return lambda path: write_clip(path, frames or faces(width, height), **settings)


def speech(
    codec: str = "pcm_s16le", *, seconds: float = SECONDS, rate: int = 48_000, channels: int = 1, samples: Any = None
) -> Make:
    """An audio file: of ``voice``, or of the int16 ``samples`` (n, channels)."""
    return lambda path: write_speech(
        path, voice(seconds, rate, channels) if samples is None else samples, rate=rate, codec=codec
    )


def floats(value: float, *, codec: str = "pcm_f32le", loud: float = 1.0) -> Make:
    """Floating-point sound, ``loud`` times as loud as full scale, whose sample at 0.2 s is ``value`` times that."""

    def make(path: Path) -> None:
        samples = voice(rate=48_000).T / 12_000
        samples[0, 9600] = value
        kind: Any = np.float32 if codec == "pcm_f32le" else np.float64
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray((loud * samples).astype(kind), "flt" if kind is np.float32 else "dbl", "mono")
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return make


def text(content: str) -> Make:
    """What calls itself a video or a sound and is text; ``{port}`` in it is what the file ``port`` beside it says."""

    def make(path: Path) -> None:
        port = path.with_name("port")
        path.write_text(content.replace("{port}", port.read_text()) if "{port}" in content else content)

    return make


def data(content: bytes) -> Make:
    """The same of bytes."""
    return lambda path: path.write_bytes(content)


def zipped(path: Path) -> None:
    """An archive with a clip in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("talk.mp4", bytes(2000))


def cut(make: Make, stop: float, *, start: float = 0.0) -> Make:
    """A file from its share ``start`` to its share ``stop``."""

    def cut_off(path: Path) -> None:
        make(path)
        whole = path.read_bytes()
        path.write_bytes(whole[int(len(whole) * start) : int(len(whole) * stop)])

    return cut_off


def damaged(*packets: int) -> Make:
    """A video some of whose packets are noise."""
    return lambda path: damage(write_clip(path, faces(), gop=5), packets)


def forged_size(path: Path) -> None:
    """A header that claims 60,000 px a side."""
    write_clip(path, faces(), codec="rawvideo", pix_fmt="uyvy422")
    content = bytearray(path.read_bytes())
    at = content.index(b"2vuy", content.index(b"stsd"))
    content[at + 28 : at + 32] = (60_000).to_bytes(2, "big") * 2
    path.write_bytes(content)


def glued(*makes: Make) -> Make:
    """Several streams in one file, one after another: sizes and clocks change on the way."""

    def make(path: Path) -> None:
        pieces = []
        for each in makes:
            each(path)
            pieces.append(path.read_bytes())
        path.write_bytes(b"".join(pieces))

    return make


def renamed(suffix: str, make: Make) -> Make:
    """A file of another container than its name says."""

    def under_another_name(path: Path) -> None:
        true = path.with_name(path.name + suffix)
        make(true)
        true.replace(path)

    return under_another_name


def folder(path: Path) -> None:
    """A folder with the name of a file."""
    path.mkdir()


def link(target: str) -> Make:
    """A symbolic link to another file of the corpus, to nothing, or to itself."""
    return lambda path: path.symlink_to(target)


def locked(path: Path) -> None:
    """A file that nobody but root may read."""
    write_clip(path, faces())
    path.chmod(0)


def with_cover(path: Path) -> None:
    """Sound with a cover picture."""
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover: Any = container.add_stream("png", rate=1, width=128, height=128, pix_fmt="rgb24")
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(faces(count=1)[0], "rgb24")
        picture.pts = 0
        container.mux(cover.encode(picture))
        container.mux(cover.encode(None))
        tone = av.AudioFrame.from_ndarray(voice(rate=44_100).T.copy(), "s16", "mono")
        tone.sample_rate, tone.pts = 44_100, 0
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))


def extra_streams(*, videos: int = 1, notes: bool = False, options: dict[str, str] | None = None, first: int = 0) -> Make:
    """Several video streams (the later ones smaller and grey), a stream of data; the clock begins at frame ``first``."""

    def make(path: Path) -> None:
        with av.open(str(path), "w", options=options or {}) as container:
            sides = [128 >> number for number in range(videos)]
            streams: list[Any] = [container.add_stream("libx264", rate=25) for _ in sides]
            for side, stream in zip(sides, streams, strict=True):
                stream.width = stream.height = side
                stream.pix_fmt = "yuv420p"
            note = container.add_data_stream("klv") if notes else None
            for number, picture in enumerate(faces()):
                for side, stream in zip(sides, streams, strict=True):
                    shown = picture if side == 128 else np.full((side, side, 3), 90, np.uint8)
                    frame = av.VideoFrame.from_ndarray(shown, "rgb24")
                    frame.pts, frame.time_base = number + first, Fraction(1, 25)
                    container.mux(stream.encode(frame))
            for stream in streams:
                container.mux(stream.encode(None))
            if note is not None:
                packet = av.Packet(b"somewhere")
                packet.stream, packet.pts, packet.dts, packet.time_base = note, 0, 0, Fraction(1, 25)
                container.mux(packet)

    return make


def heard(path: Path) -> tuple[float, float]:
    """When the voice of the first channel begins and when the sound ends, in seconds of the file, as a player shows it."""
    with opened(path) as container:
        stream = container.streams.best("audio")
        moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        frames = list(container.decode(stream))
        start = float(frames[0].pts * frames[0].time_base) - (container.start_time or 0) / av.time_base if moving else 0.0
        packed = av.AudioResampler("flt", stream.layout, frames[0].sample_rate)
        pieces = [piece.to_ndarray() for frame in frames for piece in packed.resample(frame)]
        samples = np.concatenate(pieces, axis=1).reshape(-1, stream.layout.nb_channels)[:, 0]
    rate = frames[0].sample_rate
    loud = np.abs(samples) > 0.3 * np.abs(samples).max()
    return start + int(np.argmax(loud)) / rate, start + len(samples) / rate


def write_pairs(folder: Path, makes: Mapping[str, Make], rows: Mapping[str, dict[str, str]], ports: Mapping[str, int]) -> Path:
    """Files by their makers, and the manifest: of each id ``talk.mp4`` and ``speech.wav``, unless its row says otherwise.

    Addresses may name the ``ports`` and the ``folder`` in braces.
    """
    (folder / "port").write_text(str(ports["lure"]))
    for name, make in makes.items():
        make(folder / name)
    with (folder / "pairs.jsonl").open("w") as file:
        for name, row in rows.items():
            named = {key: value.format(folder=folder, **ports) if "://" in value else value for key, value in row.items()}
            print(json.dumps({"clip_id": name, "video": "talk.mp4", "audio": "speech.wav", **named}), file=file)
    return folder / "pairs.jsonl"
