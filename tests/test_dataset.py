"""Datasets in, datasets out: what of the user's rows arrives, and what is told when."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from ray.data.expressions import col

from latentsync_ray import Cluster, ConfigError, ModelError, Recipe, lipsync_dataset
from latentsync_ray.records import RECORD_SCHEMA

RECIPE = Recipe(model="tiny-random", steps=1, preset="ultrafast")
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    video, audio = write_clip(folder / "talk.mp4", portrait(20)), write_speech(folder / "speech.wav", speech_like(0.4))
    return {"video": str(video), "audio": str(audio)}


def test_every_kind_of_row_at_once(clip: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nan = float("nan")
    rows = [
        {"clip_id": 7, "duration": 99.0, "take": 3, "index": 5, "note": None, "guidance_scale": nan, **clip},
        {"clip_id": 8, "duration": None, "take": None, "index": 6, "note": None, "guidance_scale": 1.5, **clip},
        {"clip_id": 9, "duration": 1.0, "take": 4, "index": 7, "note": None, "guidance_scale": None, **clip},
        {"clip_id": 9, "duration": 2.0, "take": 5, "index": 8, "note": None, "guidance_scale": None, **clip},
        {"clip_id": 10, "duration": 3.0, "take": 6, "index": 9, "note": None, "guidance_scale": 5.0, **clip},
        {"clip_id": 11, "duration": 4.0, "take": 7, "index": 9, "note": None, "guidance_scale": None, **clip, "video": ""},
    ]
    kinds = {"clip_id": pa.int32(), "duration": pa.float32(), "take": pa.int16(), "index": pa.int8(), "note": pa.string()}
    kinds |= {"guidance_scale": pa.float64(), "video": pa.string(), "audio": pa.string()}
    schema = pa.schema(list(kinds.items()))
    pairs = ray.data.from_arrow(pa.Table.from_pylist(rows, schema))
    made = lipsync_dataset(pairs, "out", recipe=RECIPE)
    blocks = [
        block for block in (cast("pa.Table", ray.get(cast("Any", ref))) for ref in made.to_arrow_refs()) if block.num_rows
    ]
    carried = [("manifest_duration", pa.float32()), ("take", pa.int16()), ("index", pa.int8()), ("note", pa.string())]
    assert {block.schema.remove_metadata() for block in blocks} == {pa.schema([*RECORD_SCHEMA, *carried])}
    table = pa.concat_tables(blocks)
    found = {(row["clip_id"], row["take"]): row for row in table.to_pylist()}
    assert {key: row["error_code"] for key, row in found.items()} == {
        ("7", 3): None,
        ("8", None): None,
        ("9", 4): found["9", 4]["error_code"],
        ("9", 5): found["9", 5]["error_code"],
        ("10", 6): "invalid_pair",
        ("11", 7): "invalid_pair",
    }
    same_id = {found["9", take]["error"] for take in (4, 5)}
    assert same_id == {None, "another row has this clip_id, or the same file by its clip_name; give each its own"}, (
        "one of them is dubbed"
    )
    assert (found["7", 3]["duration"], found["7", 3]["manifest_duration"], found["7", 3]["index"]) == (0.4, 99.0, 5)
    assert (found["7", 3]["guidance_scale"], found["8", None]["guidance_scale"]) == (1.0, 1.5)
    assert found["7", 3]["output"] == str(tmp_path / "out" / "clips" / "7.mp4")
    assert Path(found["7", 3]["output"]).is_file()
    assert not list((tmp_path / "out" / "_work").rglob("*.mp4"))


@pytest.mark.slow
def test_clips_come_out_while_others_are_not_made(tmp_path: Path) -> None:
    """And steps before and after work meanwhile."""
    there = os.pathsep.join(str(Path(__file__).parents[up]) for up in (0, 1))
    environment = {**os.environ, "PYTHONPATH": there}
    script = [sys.executable, str(Path(__file__).with_name("streamed.py")), str(tmp_path)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.splitlines() == ["FIRST", "given", "SECOND"], done.stderr[-3000:]


def test_records_go_into_parquet(clip: dict[str, str], tmp_path: Path) -> None:
    pairs = ray.data.from_items([{"clip_id": f"clip{n}", "take": n, **clip} for n in range(2)])
    made = lipsync_dataset(pairs, tmp_path / "out", recipe=RECIPE).filter(expr=col("status") == "ok")
    made.write_parquet(str(tmp_path / "table"))
    table = pq.read_table(tmp_path / "table")
    assert sorted(zip(*table.select(["clip_id", "take"]).to_pydict().values(), strict=True)) == [("clip0", 0), ("clip1", 1)]
    assert all(Path(path).is_file() for path in table["output"].to_pylist())


def test_a_clip_whose_join_dies_is_told_and_the_others_go_on(clip: dict[str, str], tmp_path: Path) -> None:
    pairs = ray.data.from_items([{"clip_id": name, **clip} for name in ("deadly", "fine")])
    made = lipsync_dataset(pairs, tmp_path / "out", recipe=RECIPE, sink="faulty:DeadlySink").take_all()
    assert {row["clip_id"]: row["error_code"] for row in made} == {"deadly": "worker_died", "fine": None}


def test_rows_of_pandas_without_ids(clip: dict[str, str], tmp_path: Path) -> None:
    red = write_clip(tmp_path / "red.mp4", np.full((10, 96, 96, 3), (230, 20, 20), np.uint8))
    changes = {
        "anna": {"seed": np.nan},
        "ben": {"seed": 5.0, "audio": clip["video"]},
        "cleo": {"seed": 6.0, "video": str(red)},
    }
    frame = pd.DataFrame([{**clip, **changed, "speaker": name} for name, changed in changes.items()])
    pairs = ray.data.from_pandas(frame)
    before = copy.deepcopy(vars(pairs.context))
    made = lipsync_dataset(pairs, tmp_path / "out", recipe=RECIPE).take_all()
    assert vars(pairs.context) == before, "what the caller makes of the same pairs runs as it did"
    told = {row["speaker"]: (row["error_code"], row["clip_id"].rpartition("-")[0], row["seed"]) for row in made}
    assert told == {"anna": (None, "talk", 1247), "ben": ("unreadable_audio", "talk", 5), "cleo": ("no_face", "red", 6)}
    assert {row["speaker"]: Path(row["output"]).is_file() for row in made if row["status"] == "ok"} == {"anna": True}


@pytest.mark.parametrize(
    ("pairs", "changed", "why"),
    [
        ([{"video": "v"}], {}, "pairs has no column 'audio'; it has video"),
        (
            [{"video": "v", "audio": "a", "fps": 1, "manifest_fps": 2}],
            {},
            "'manifest_fps', the name its column 'fps' is carried",
        ),
        ([], {"pairs": [{"video": "v", "audio": "a"}]}, r"pairs is \[.*; it must be a ray.data.Dataset"),
        ([{"video": "v", "audio": "a"}], {"output": None}, "output is None; it must be a path or URI"),
        ([{"video": "v", "audio": "a"}], {"recipe": {"steps": 3}}, r"recipe is \{'steps': 3\}; it must be a Recipe"),
        ([{"video": "v", "audio": "a"}], {"cluster": "auto"}, "cluster is 'auto'; it must be a Cluster"),
        ([{"video": "v", "audio": "a"}], {"sink": "webm"}, "unknown sink 'webm'"),
        ([{"video": "v", "audio": "a"}], {"output": "out", "cluster": Cluster(address="auto")}, r"output is relative \(out\)"),
        ([{"video": "v", "audio": "a"}], {"recipe": Recipe(model="latentsync-1.6")}, "no weights of latentsync-1.6"),
        ([{"video": "v", "audio": "a"}], {"recipe": Recipe(model="no-such")}, "no model 'no-such'"),
    ],
)
def test_what_can_be_known_is_told_at_the_call(pairs: list, changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    arguments = {"output": tmp_path, "recipe": RECIPE, "pairs": ray.data.from_items(pairs) if pairs else None, **changed}
    with pytest.raises((ConfigError, ModelError), match=why):
        lipsync_dataset(**arguments)
