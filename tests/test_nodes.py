"""Several nodes: what has to happen everywhere, and not only where the driver is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from disturbed_nodes import RECIPE, write_pairs
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Cluster, Job, read_records, run

_HERE = Path(__file__).resolve().parent


def in_a_process(script: str, *arguments: str) -> Any:
    """What a script of the tests says in its last line, as JSON, after it ended with 0."""
    path = os.pathsep.join([str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_DISABLE_IMPORT_WARNING": "1"}
    command = [sys.executable, str(_HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_joins_run_on_every_node(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", portrait(20))
    write_speech(tmp_path / "a.wav", speech_like(0.7))
    rows = [{"clip_id": f"c{number}", "video": "v.mp4", "audio": "a.wav"} for number in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nodes = in_a_process("three_nodes.py", str(tmp_path))
    assert {row["error_code"] for row in read_records(tmp_path / "out").to_pylist()} == {None}
    joined = [(tmp_path / "nodes" / f"c{number}").read_text() for number in range(8)]
    assert set(joined) == set(nodes)
    assert max(map(joined.count, nodes)) <= 4


_CLIPS = [f"c{number}" for number in range(6)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six pairs of two segments each."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder, _CLIPS)
    return folder


@pytest.fixture(scope="module")
def undisturbed(pairs: Path) -> dict[str, str]:
    """The hashes of the clips as one process makes them."""
    cluster = Cluster(runner="local", device="cpu")
    run(Job(manifest=pairs / "pairs.jsonl", output=pairs / "local", recipe=RECIPE, cluster=cluster))
    return hashes(pairs / "local")


def hashes(output: Path) -> dict[str, str]:
    rows = read_records(output).to_pylist()
    assert sorted(row["clip_id"] for row in rows) == _CLIPS, "one record per clip"
    assert {row["error_code"] for row in rows} == {None}
    return {row["clip_id"]: row["sha256"] for row in rows}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds workers in /proc")
@pytest.mark.parametrize("what", ["node_killed", "worker_killed", "node_late", "from_nothing"])
def test_nodes_that_come_and_go_change_no_byte(what: str, pairs: Path, undisturbed: dict[str, str]) -> None:
    told = in_a_process("disturbed_nodes.py", str(pairs), what)
    output = pairs / what / "out"
    assert hashes(output) == undisturbed
    assert not list(output.rglob("run.json")), "the output is free for the next run"
    joined = {(pairs / what / "nodes" / clip_id).read_text() for clip_id in _CLIPS}
    assert bool(told["killed"]) == (what == "node_killed")
    assert bool(told["pids"]) == (what == "worker_killed")
    if what in ("node_late", "from_nothing"):
        assert set(told["late"]) & joined, "a node that comes late is given work"
