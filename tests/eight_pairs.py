"""The dataset of the main job's tests: what real datasets hold, good and bad, a second or two each."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from make_clips import write_clip

from latentsync_ray import assets
from latentsync_ray.media.decode import read_frames
from latentsync_ray.media.source import probe_video
from latentsync_ray.media.speech import decode_speech, read_speech, write_wav

__all__ = ["GAP", "SECONDS", "decoded", "portrait", "write_dataset"]

SECONDS = 1.2
GAP = range(16, 41)
"""Frames of the clip ``gap`` that show no face: one second."""


def decoded(path: Path, first: int | None = None) -> np.ndarray:
    """All frames of a video, or the ``first`` few, uint8 (N, H, W, 3)."""
    index = probe_video(path, max_pixels=1 << 24, max_seconds=600)
    rows = np.arange(len(index), dtype=np.int32)[:first]
    return np.stack([picture.rgb() for _, picture in read_frames(path, index, rows)])


def portrait(count: int) -> np.ndarray:
    """The first frames of the shipped clip, at 256 px."""
    frames = decoded(assets.demo_video(), count)
    return np.stack([cv2.resize(frame, (256, 256), interpolation=cv2.INTER_AREA) for frame in frames])


def write_dataset(folder: Path, footage: Path | None) -> Path:
    """Write the clips and a manifest; ``footage`` adds a row of real footage scaled to 540 px height. Returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "speech.raw"
    decode_speech(assets.demo_audio(), raw, max_seconds=60)
    speech = np.array(read_speech(raw))
    write_wav(folder / "short.wav", speech[16_000 : 16_000 + round(SECONDS * 16_000)])
    write_wav(folder / "long.wav", speech[16_000 : 16_000 + round(2 * SECONDS * 16_000)])
    frames = portrait(64)
    write_clip(folder / "talk.mp4", frames[:45])
    write_clip(folder / "brief.mp4", np.concatenate([frames[:25], frames[:38:-1]], axis=2))  # two heads, side by side
    tall = [cv2.resize(frame, (243, 256)) for frame in frames[:50]]
    stored = [np.ascontiguousarray(np.rot90(frame)) for frame in tall]  # a player turns them back, to 243 px width
    write_clip(folder / "turned.mp4", stored, fps=30, rotation=-90, pix_fmt="yuv444p")
    gone = frames.copy()
    gone[GAP.start : GAP.stop] = _nobody(len(GAP))
    write_clip(folder / "gap.mp4", gone, options={"crf": "12"})
    write_clip(folder / "nobody.mp4", _nobody(45))
    (folder / "cut_off.mp4").write_bytes((folder / "talk.mp4").read_bytes()[:9000])
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    rows = [
        {"clip_id": "talk", "video": "talk.mp4", "audio": "short.wav"},
        {"clip_id": "pingpong", "video": "brief.mp4", "audio": "long.wav", "loop_mode": "pingpong", "face": "all"},
        {"clip_id": "loop", "video": "brief.mp4", "audio": "long.wav", "loop_mode": "loop"},
        {"clip_id": "turned", "video": "turned.mp4", "audio": "short.wav"},
        {"clip_id": "gap", "video": "gap.mp4", "audio": "long.wav"},
        {"clip_id": "nobody", "video": "nobody.mp4", "audio": "short.wav"},
        {"clip_id": "cut_off", "video": "cut_off.mp4", "audio": "short.wav"},
        {"clip_id": "text", "video": "text.mp4", "audio": "short.wav"},
    ]
    if footage is not None:
        scaled = (cv2.resize(frame, (304, 540), interpolation=cv2.INTER_AREA) for frame in decoded(footage, 45))
        write_clip(folder / "footage.mp4", scaled)
        rows.append({"clip_id": "footage", "video": "footage.mp4", "audio": "short.wav"})
    manifest = folder / "pairs.jsonl"
    manifest.write_text("".join(json.dumps({**row, "note": f"row of {row['clip_id']}"}) + "\n" for row in rows))
    return manifest


def _nobody(count: int) -> np.ndarray:
    """Smooth colours that change slowly."""
    y, x = np.mgrid[0:256, 0:256] / 256
    waves = [np.stack([np.sin(3 * x + t / 20), np.cos(2 * y - t / 30), np.sin(x + y + t / 40)], axis=-1) for t in range(count)]
    return (np.stack(waves) * 60 + 128).astype(np.uint8)
