"""Several nodes: what has to happen everywhere, and not only where the driver is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import read_records

_HERE = Path(__file__).resolve().parent


@pytest.mark.slow
def test_joins_run_on_every_node(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", portrait(20))
    write_speech(tmp_path / "a.wav", speech_like(0.7))
    rows = [{"clip_id": f"c{number}", "video": "v.mp4", "audio": "a.wav"} for number in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "RAY_DISABLE_IMPORT_WARNING": "1"}
    command = [sys.executable, str(_HERE / "three_nodes.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {row["error_code"] for row in read_records(tmp_path / "out").to_pylist()} == {None}
    nodes = json.loads(done.stdout.splitlines()[-1])
    joined = [(tmp_path / "nodes" / f"c{number}").read_text() for number in range(8)]
    assert set(joined) == set(nodes)
    assert max(map(joined.count, nodes)) <= 4
