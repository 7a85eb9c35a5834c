"""Arguments of the wrong kind are told at once, and in the caller's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentsync_ray import Cluster, ConfigError, Job, LipSync, Pair, Recipe, lipsync, read_records, run

CALLS: list[tuple[Callable[..., Any], tuple, dict[str, Any], str]] = [
    (lipsync, (None, "a.wav", "o.mp4"), {}, "video is None; it must be a path or URI"),
    (lipsync, ("v.mp4", 7, "o.mp4"), {}, "audio is 7; it must be a path or URI"),
    (lipsync, ("v.mp4", "a.wav", b"o.mp4"), {}, "output is b'o.mp4'; it must be a path or URI"),
    (lipsync, ("v.mp4", " ", "o.mp4"), {}, "audio is ' '; it must be a path or URI"),
    (lipsync, ("v.mp4", "a.wav", "o.mp4"), {"recipe": {"steps": 3}}, "recipe is {'steps': 3}; it must be a Recipe"),
    (
        lipsync,
        ("v.mp4", "a.wav", "o.mp4"),
        {"device": "gpu"},
        "device is 'gpu'; it must be one of 'auto', 'cuda', 'mps', 'cpu'",
    ),
    (LipSync, (None,), {}, "output is None; it must be a path or URI"),
    (lipsync, ("v.mp4", __file__, __file__), {}, f"{__file__} is one of the inputs; name another file to write to"),
    (LipSync, (__file__,), {}, f"output is {__file__}, a file; name the folder that clips are written to"),
    (LipSync, ("out",), {"recipe": "nano"}, "recipe is 'nano'; it must be a Recipe"),
    (LipSync, ("out",), {"device": "cuda:0"}, "device is 'cuda:0'; it must be one of"),
    (run, ("job.yaml",), {}, "job is 'job.yaml'; it must be a Job, e.g. load_job('job.yaml')"),
    (run, (Path("job.yaml"),), {}, "job is PosixPath('job.yaml'); it must be a Job"),
    (read_records, (None,), {}, "output is None; it must be a path or URI"),
    (Pair, (), {"clip_id": "anna", "video": None, "audio": "a"}, "video of clip 'anna' is None; it must be a path or URI"),
]


@pytest.mark.parametrize(("call", "arguments", "named", "told"), CALLS)
def test_wrong_kinds(call: Callable[..., Any], arguments: tuple, named: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(told)):
        call(*arguments, **named)


def test_only_pairs_are_dubbed(tmp_path: Path) -> None:
    model = LipSync(tmp_path, recipe=Recipe(model="tiny-random"), device="cpu")
    with pytest.raises(ConfigError, match=r"^pair is \{'clip_id': 'a'\}; it must be a Pair, e\.g\. Pair\("):
        model({"clip_id": "a"})  # pyright: ignore[reportArgumentType]


def test_paths_become_text() -> None:
    pair = Pair(clip_id="a", video=Path("v.mp4"), audio=Path("a.wav"))
    assert (pair.video, pair.audio) == ("v.mp4", "a.wav")
    job = Job(manifest=Path("m.csv"), output=Path("/out"), recipe=Recipe(), cluster=Cluster())
    assert (job.manifest, job.output) == ("m.csv", "/out")
