"""The notebooks show what they promise, and run: here with fewer steps and less to say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
from heads import needs_mesh
from nbclient import NotebookClient

from latentsync_ray import assets
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech, write_wav

SHORTER = "from pathlib import Path\nfrom latentsync_ray import assets\nassets.demo_audio = lambda: Path({speech!r})"
"""A cell before the others: a second of speech instead of six."""
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_was_executed_and_shows_frames(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert cells
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert any("image/jpeg" in data for data in shown)
    assert any("<video" in data.get("text/html", "") and "base64" in data["text/html"] for data in shown), "plays by itself"
    assert any("154 of 154 frames, finished" in data.get("text/html", "") for data in shown)
    assert path.stat().st_size < 3_000_000


@pytest.mark.filterwarnings("ignore:Kernel is running over TCP")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(path.parent.parent))
    raw = tmp_path / "speech.raw"
    decode_speech(assets.demo_audio(), raw, max_seconds=60)
    write_wav(tmp_path / "short.wav", np.array(read_speech(raw))[:SAMPLE_RATE])
    source = path.read_text()
    assert source.count("steps=6") == 1
    notebook = nbformat.reads(source.replace("steps=6", "steps=1"), 4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORTER.format(speech=str(tmp_path / "short.wav"))))
    NotebookClient(notebook, timeout=240, startup_timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output["data"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "data" in output
    ]
    assert "25 of 25 frames, finished" in shown[0]["text/html"]
    assert "('ok', 25" in shown[1]["text/plain"]
    assert "<video" in shown[2]["text/html"]
    pictures = 3 if needs_mesh() else 2  # the mesh keeps a picture of each face
    assert len([data for data in shown if {"image/png", "image/jpeg"} & set(data)]) == pictures
    assert "unreadable_video" in shown[-1]["text/plain"]
    assert (tmp_path / "one-clip.mp4").stat().st_size > 10_000
