"""One test's traces are gone when the next begins: each leaves some here, in both orders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_TESTS = """
import logging, os
from pathlib import Path
import fsspec, pytest, torch
from latentsync_ray import lease, storage
from latentsync_ray.models.latentsync.mask import keep_mask

HOME = Path.cwd()

@pytest.mark.parametrize("number", range(2))
def test_leaves_traces(number):
    assert storage.find_files("memory://out") == []
    assert "LEFT_BEHIND" not in os.environ
    assert not Path(os.environ["LATENTSYNC_RAY_CACHE"]).exists()
    assert lease._HELD == set()
    assert keep_mask.cache_info().currsize == 0
    assert Path.cwd() == HOME
    assert torch.get_num_threads() == 1
    assert logging.getLogger("latentsync_ray").level == logging.NOTSET
    assert len(logging.getLogger("latentsync_ray").handlers) == 0
    storage.write_bytes("memory://out/clips/a.mp4", b"a")
    storage.fetch("memory://out/clips/a.mp4")
    os.environ["LEFT_BEHIND"] = "1"
    lease._HELD.add("mine")
    keep_mask(256)
    os.chdir("/")
    torch.set_num_threads(2)
    logging.getLogger("latentsync_ray").setLevel("ERROR")
    logging.getLogger("latentsync_ray").addHandler(logging.NullHandler())
"""


def test_traces_are_gone(tmp_path: Path) -> None:
    (tmp_path / "test_traces.py").write_text(_TESTS)
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "test_traces.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "2 passed" in ended.stdout, ended.stdout
