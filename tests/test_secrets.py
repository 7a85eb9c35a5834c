"""A job over signed addresses, by the real command line: no signature and no login in anything that it leaves behind."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from eight_pairs import write_dataset

from latentsync_ray import Cluster, Job, Recipe, read_records, run

SECRETS = ("PassW0rd", "S1gnature", "Cr3dential", "T0ken", "0ddL0gin", "Fr4gment")
QUERY = "X-Amz-Credential=Cr3dential%2F2026&X-Amz-Security-Token=T0ken%3D%3D&X-Amz-Signature=S1gnature"
LOGIN = "me:PassW0rd"
FORBIDDEN = [*SECRETS, base64.b64encode(LOGIN.encode()).decode()]
RECIPE = Recipe(model="tiny-random", steps=1, preset="ultrafast", detector="faulty:Faulty")


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files for those who show the login and today's signature; 403 for what is called denied."""

    signature = "S1gnature"

    def do_HEAD(self) -> None:
        self._answer(super().do_HEAD)

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def _answer(self, serve) -> None:
        login = self.headers.get("Authorization", "").removeprefix("Basic ") == FORBIDDEN[-1]
        if "denied" in self.path or not (login and self.path.endswith(f"={_Handler.signature}")):
            self.send_error(403)
        else:
            serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the clips are served, login included."""
    folder = tmp_path_factory.mktemp("site")
    write_dataset(folder, None)

    class Handler(_Handler):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # pyright: ignore[reportArgumentType]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOGIN}@127.0.0.1:{server.server_port}"
        server.shutdown()


def write_manifest(path: Path, site: str, *rows: tuple[str, str]) -> Path:
    lines = [
        {"clip_id": clip_id, "video": f"{site}/{name}?{QUERY}#Fr4gment", "audio": f"{site}/short.wav?{QUERY}"}
        for clip_id, name in rows
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def leaks(*texts: str | bytes) -> list[str]:
    found = []
    for text in texts:
        content = text.encode() if isinstance(text, str) else text
        found += [secret for secret in FORBIDDEN if secret.encode() in content]
    return found


def everything_in(folder: Path) -> Iterator[bytes]:
    """All names and bytes below a folder, and what Parquet files say."""
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            yield path.read_bytes()
        if path.suffix == ".parquet":
            yield json.dumps([pq.read_table(path).to_pylist(), str(pq.read_schema(path).metadata)], default=str).encode()


@pytest.fixture(scope="module")
def done(site: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output of a job whose last clip meets a bug, and what the command said."""
    folder = tmp_path_factory.mktemp("job")
    rows = [("", "talk.mp4"), ("gone", "gone.mp4"), ("denied", "denied.mp4"), ("text", "text.mp4"), ("nobody", "nobody.mp4")]
    manifest = write_manifest(folder / "clips.jsonl", site, *rows, ("odd", "brief.mp4"))
    job = {
        "manifest": str(manifest),
        "output": str(folder / "out"),
        "sink": "faulty:QuotingSink",
        "failure_budget": 1,
        "recipe": {"model": "tiny-random", "steps": 1, "preset": "ultrafast", "detector": "faulty:Faulty"},
        "cluster": {"runner": "local", "device": "cpu"},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "latentsync_ray", "run", str(folder / "job.yaml")]
    return folder / "out", subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


def test_the_command_says_what_happened_and_no_secret(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, process = done
    assert process.returncode == 1
    for code in ("gone: input_not_found", "denied: input_not_found", "text: unreadable_video", "nobody: no_face"):
        assert f"failed {code}" in process.stderr
    assert "no such port in https://***@h.example/odd.mp4?***" in process.stderr
    assert "1 clip met a bug; its row holds the end of the traceback" in process.stdout
    assert leaks(process.stdout, process.stderr) == []


def test_nothing_that_is_written_holds_a_secret(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    output, _ = done
    assert leaks(*everything_in(output)) == []
    rows = {row["clip_id"]: row for row in read_records(str(output)).to_pylist()}
    assert {row["error_code"] for row in rows.values()} == {
        None,
        "input_not_found",
        "unreadable_video",
        "no_face",
        "internal_error",
    }
    dubbed = next(row for row in rows.values() if row["status"] == "ok")
    assert dubbed["clip_id"].startswith("talk-")
    assert dubbed["video"].startswith("http://***@127.0.0.1:")
    assert dubbed["video"].endswith("/talk.mp4?***#***")
    assert dubbed["audio"].endswith("/short.wav?***")
    assert list((output / "_work" / "parts" / "odd").rglob("*.json")), (
        "a bug leaves the finished parts, which were looked at too"
    )


def test_signed_again_a_clip_goes_on_where_it_was(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished parts serve again although the address that they were made from is no longer good."""
    manifest = write_manifest(tmp_path / "clips.jsonl", site, ("odd", "brief.mp4"))
    job = Job(
        manifest=str(manifest), output=str(tmp_path / "out"), sink="faulty:QuotingSink", recipe=RECIPE,
        cluster=Cluster(runner="local", device="cpu"),
    )  # fmt: skip
    summary = run(job)
    assert (summary.bugs, summary.exit_code) == (1, 1)
    assert list((tmp_path / "out" / "_work" / "parts").rglob("*.json"))
    monkeypatch.setattr(_Handler, "signature", "An0ther")
    manifest.write_text(manifest.read_text().replace("S1gnature", "An0ther"))
    summary = run(job.model_copy(update={"sink": "mp4"}))
    assert (summary.ok, summary.failed) == (1, 0)
