"""What faces cost: tracking, cutting out and measuring at 1920 x 1080, a second language of the same video, memory by length.

    python jobs/bench_faces.py

The picture is the shipped portrait, enlarged; one thread. Each measurement of memory is a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import cv2
import numpy as np
import typer
from bench import out, peak_memory
from rich.table import Table

from latentsync_ray import Pair, Recipe, assets
from latentsync_ray.media.colour import BT709
from latentsync_ray.media.decode import Planes, read_frames
from latentsync_ray.media.encode import encode_part, planes_of
from latentsync_ray.media.grid import repeat
from latentsync_ray.media.source import probe_video
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech, write_wav
from latentsync_ray.preflight import resolved
from latentsync_ray.quality.marks import GRID, TRAITS, Marks
from latentsync_ray.stages import paste
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.track import Track
from latentsync_ray.types import GeneratedFaces

FPS = Fraction(25)
SECONDS, SHORT, LONG = 10, 60, 600
LIMIT = 1.2


def make_clip(folder: Path, seconds: int, *, size: tuple[int, int] = (1920, 1080)) -> tuple[Path, Path]:
    """The shipped portrait in the middle of a frame of ``size``, as high as that, repeated; and the shipped speech."""
    raw, audio, video = folder / "speech.raw", folder / f"{seconds}s.wav", folder / f"{seconds}s-{size[1]}.mp4"
    decode_speech(assets.demo_audio(), raw, max_seconds=60)
    write_wav(audio, np.resize(read_speech(raw), seconds * SAMPLE_RATE))
    index = probe_video(assets.demo_video(), max_pixels=1 << 24, max_seconds=60)
    rows = np.arange(len(index), dtype=np.int32)
    pictures = [_within(picture.rgb(), size) for _, picture in read_frames(assets.demo_video(), index, rows)]
    shown = repeat(rows, int(seconds * FPS), "pingpong")

    def frames() -> Iterator[Planes]:
        return (pictures[row] for row in shown.tolist())

    video.write_bytes(encode_part(frames(), fps=FPS, size=size, colour=BT709, crf=20, preset="superfast"))
    return video, audio


def _within(picture: np.ndarray, size: tuple[int, int]) -> Planes:
    width, height = size
    large = cv2.resize(picture, (height, height), interpolation=cv2.INTER_CUBIC)
    left = (width - height) // 2
    return planes_of(cv2.copyMakeBorder(large, 0, 0, left, width - height - left, cv2.BORDER_REFLECT))


def speed() -> None:
    """Milliseconds per frame of track and crop, by detector and model."""
    table = Table("detector", "model", "track", "crop", "both", "track, second language", title="ms per 1920x1080 frame")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, audio = make_clip(folder, SECONDS)
        for detector in ("mesh", "embedded"):
            for model, side in (("latentsync-1.5", 256), ("latentsync-1.6", 512)):
                recipe = Recipe(model=model, detector=detector)
                output = str(folder / f"{detector}-{side}")
                plan = Plan(recipe, output)(Pair(clip_id="a", video=video, audio=audio))
                track, crop = Track(recipe, output), Crop(recipe)
                began = time.process_time()
                segments = list(track(plan))
                tracked = time.process_time()
                for segment in segments:
                    crop(segment)
                cropped = time.process_time()
                list(Track(recipe, output)(plan))
                again = time.process_time()
                spent = [tracked - began, cropped - tracked, cropped - began, again - cropped]
                table.add_row(detector, f"{side} px", *(f"{each / plan.frame_count * 1e3:.1f}" for each in spent))
    out.print(table)


class _Unmeasured:
    """Takes the place of ``Marks`` and notes nothing."""

    def __init__(self, _: object, count: int) -> None:
        self.grids, self.count = np.zeros((count, 2, *GRID), np.uint8), count

    def views(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...

    def traits(self, *_: object) -> np.ndarray:
        return np.zeros((self.count, len(TRAITS)), np.float32)


def quality(rounds: int = 5) -> None:
    """What the record's measures of the picture take of crop and paste, in CPU time: the least of several rounds of each."""
    table = Table(
        "model", "crop", "paste", "paste and measure", "share of crop and paste", title="ms of CPU per 1920x1080 frame"
    )
    with tempfile.TemporaryDirectory() as name:
        video, audio = make_clip(Path(name), 3)
        for model, side in (("latentsync-1.5", 256), ("latentsync-1.6", 512)):
            recipe = resolved(Recipe(model=model))
            (segment,) = Track(recipe, name)(Plan(recipe, name)(Pair(clip_id="a", video=video, audio=audio)))
            crops, spent = Crop(recipe)(segment), defaultdict(list)
            for _ in range(rounds):
                for task, marks in (("crop", Marks), ("paste", _Unmeasured), ("measured", Marks)):
                    began = time.process_time()
                    if task == "crop":
                        Crop(recipe)(segment)
                    else:
                        with patch.object(paste, "Marks", marks):
                            paste.Paste(recipe, name)(GeneratedFaces.of(crops, faces=crops.faces))
                    spent[task].append((time.process_time() - began) / segment.frame_count * 1e3)
            cut, plain, measured = (min(times) for times in spent.values())
            share = (measured - plain) / (cut + plain)
            table.add_row(f"{side} px", *(f"{each:.1f}" for each in (cut, plain, measured)), f"{share:.1%}")
    out.print(table)


def child(video: Path, audio: Path) -> None:
    """In a process of its own: look through a video, print the process's peak memory and the size of the file of tracks."""
    recipe = resolved(Recipe(model="tiny-random"))
    output = video.parent / f"tracks-{video.stem}"
    plan = Plan(recipe, str(output))(Pair(clip_id="a", video=video, audio=audio))
    count = sum(len(segment.frames) for segment in Track(recipe, str(output))(plan))
    (kept,) = output.rglob("*.parquet")
    out.print_json(json.dumps({"peak": peak_memory(), "frames": count, "bytes": kept.stat().st_size}), indent=None)


def memory() -> bool:
    """Peak memory of the pass over a long video against a short one."""
    table = Table("video", "faces", "peak memory", "bytes per face and frame", title="memory of tracking, one process each")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        for seconds in (SHORT, LONG):
            video, audio = make_clip(Path(name), seconds, size=(640, 360))
            command = [sys.executable, __file__, "child", str(video), str(audio)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
            peaks.append(told["peak"])
            each = f"{told['bytes'] / told['frames']:.0f}"
            table.add_row(f"{seconds} s", str(told["frames"]), f"{told['peak'] / 1e6:.0f} MB", each)
    out.print(table)
    ratio = peaks[1] / peaks[0]
    out.print(f"{LONG} s takes {ratio:.2f} times the memory of {SHORT} s (limit {LIMIT})\n")
    return ratio <= LIMIT


def main(parts: Annotated[list[str] | None, typer.Argument(help="speed, quality, memory; all by default")] = None) -> None:
    """Run the benchmarks."""
    if parts and parts[0] == "child":
        child(*(Path(part) for part in parts[1:]))
        return
    if "speed" in (parts or ["speed"]):
        speed()
    if "quality" in (parts or ["quality"]):
        quality()
    if "memory" in (parts or ["memory"]) and not memory():
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
