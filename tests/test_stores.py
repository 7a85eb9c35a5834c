"""Jobs whose manifest, inputs and output lie in object stores, Google's and Amazon's, by the options of the job file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eight_pairs import portrait
from make_clips import opened, speech_like, write_clip, write_speech
from stores import FORBIDDEN, Store, gs_store, s3_store

from latentsync_ray import assets, filesystems, read_records, storage
from latentsync_ray.layout import join
from latentsync_ray.models.find import find_model

ODD = [
    "a b.mp4",
    "a+b.mp4",
    "100%.mp4",
    "a%20b.mp4",
    "a#b.mp4",
    "a?b.mp4",
    "a&b=c.mp4",
    "\u00fc \u6f22.mp4",
    "a*[b].mp4",
    "'a'\"b.mp4",
]
CLIPS = 6
SECONDS = 1.2


@pytest.fixture(scope="module", params=["gs", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with gs_store() if request.param == "gs" else s3_store() as opened_store:
        yield opened_store


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video and a speech."""
    folder = tmp_path_factory.mktemp("pairs")
    video = write_clip(folder / "v.mp4", portrait(30))
    return video, write_speech(folder / "s.wav", speech_like(SECONDS))


def fill(store: Store, folder: str, pairs: tuple[Path, Path]) -> tuple[str, str]:
    """Put a manifest and its inputs, under odd keys, into the store; where the manifest and the output are."""
    rows = []
    with filesystems.configured(store.options):
        for number, name in zip(range(CLIPS), ODD, strict=False):
            video, audio = join(store.root, folder, "in", f"{number} {name}"), join(store.root, folder, "in", f"{name}.wav")
            storage.publish(pairs[0], video)
            storage.publish(pairs[1], audio)
            rows.append({"clip_id": f"{number} {name.removesuffix('.mp4')}", "video": video, "audio": audio})
        manifest = join(store.root, folder, "pairs+a b.jsonl")
        storage.write_bytes(manifest, "\n".join(map(json.dumps, rows)).encode())
    return manifest, join(store.root, folder, "out put")


def write_job(path: Path, store: Store, folder: str, pairs: tuple[Path, Path], runner: str) -> str:
    """The job file; gives the output."""
    manifest, output = fill(store, folder, pairs)
    recipe = {"model": "toy:TOY", "detector": "embedded", "preset": "ultrafast", "segment_frames": 48}
    cluster = {"runner": runner, "device": "cpu"}
    job = {"manifest": manifest, "output": output, "recipe": recipe, "cluster": cluster, "storage_options": store.options}
    path.write_text(json.dumps(job))
    return output


def command(*arguments: str, **environment: str) -> dict[str, Any]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {
        "args": [sys.executable, "-m", "latentsync_ray", *arguments],
        "env": {**os.environ, "PYTHONPATH": path, **environment},
    }


def leaks(*texts: str | bytes) -> list[str]:
    content = b"\n".join(text.encode() if isinstance(text, str) else text for text in texts)
    return [secret for secret in FORBIDDEN if secret.encode() in content]


def everything_at(output: str) -> Iterator[bytes]:
    """All names and bytes in an output, and what its tables say."""
    for uri in storage.find_files(output):
        content = storage.read_bytes(uri)
        yield uri.encode()
        yield content
        if uri.endswith(".parquet"):
            yield str(pq.read_table(io.BytesIO(content)).to_pylist()).encode()


def check_whole(uri: str) -> None:
    """Raise when there is half a file at ``uri``."""
    content = storage.read_bytes(uri)
    if uri.endswith(".parquet"):
        assert pq.read_table(io.BytesIO(content)).num_rows
        return
    assert uri.endswith(".mp4"), f"{uri} is neither a clip nor a table"
    with opened(content) as container:
        assert sum(1 for _ in container.decode(video=0)) == round(25 * SECONDS), uri


def test_odd_keys(store: Store, tmp_path: Path) -> None:
    folder, local = join(store.root, "odd"), tmp_path / "x"
    local.write_bytes(b"other")
    with filesystems.configured(store.options):
        for number, name in enumerate(ODD):
            uri = join(folder, name)
            storage.write_bytes(uri, f"{number}".encode())
            assert storage.read_bytes(uri) == f"{number}".encode()
            assert storage.fetch(uri).read_bytes() == f"{number}".encode()
            storage.publish(local, uri, drafts=join(store.root, "odd drafts"))
            assert storage.fetch(uri).read_bytes() == b"other"
            assert storage.seen(uri)
        assert storage.list_files(folder) == storage.find_files(folder) == sorted(join(folder, name) for name in ODD)
        assert storage.find_files(join(store.root, "odd drafts")) == []
        storage.delete([join(folder, "a*[b].mp4")])
        assert len(storage.list_files(folder)) == len(ODD) - 1
        storage.delete(join(folder, name) for name in ODD)
        assert not storage.exists(folder)


def test_killed_and_run_again_and_no_secret_anywhere(store: Store, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    output = write_job(tmp_path / "job.yaml", store, "killed", pairs, "local")
    run = command("run", str(tmp_path / "job.yaml"), "failure_budget=0.5")
    with (tmp_path / "first.log").open("wb") as log:
        process = subprocess.Popen(**run, stdout=log, stderr=log)
        with filesystems.configured(store.options):
            until = time.monotonic() + 240
            while not storage.list_files(join(output, "clips")):
                assert process.poll() is None, (tmp_path / "first.log").read_text()
                assert time.monotonic() < until, (tmp_path / "first.log").read_text()
                time.sleep(0.05)
            process.kill()
            process.wait()
            before = storage.list_files(join(output, "clips"))
            for uri in before:
                check_whole(uri)
    assert 1 <= len(before) < CLIPS, "it was not killed in the middle"
    again = subprocess.run(**run, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    with filesystems.configured(store.options):
        rows = {row["clip_id"]: row for row in read_records(output).to_pylist()}
        assert {row["status"] for row in rows.values()} == {"ok"}, again.stderr
        assert len(storage.list_files(join(output, "clips"))) == len(rows) == CLIPS
        assert storage.find_files(join(output, "_work")) == []
        for uri in storage.list_files(join(output, "clips")) + storage.list_files(join(output, "metadata")):
            check_whole(uri)
        written = list(everything_at(output))
    assert leaks((tmp_path / "first.log").read_bytes(), again.stdout, again.stderr, *written) == []

    given = {f"FSSPEC_{protocol.upper()}": json.dumps(options) for protocol, options in store.options.items()}
    told = subprocess.run(**command("report", output, **given), capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert f"{CLIPS} of {CLIPS} clips ok" in told.stdout
    assert leaks(told.stdout, told.stderr) == []


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # what gcsfs does with its blocks
def test_a_model_may_lie_there(store: Store) -> None:
    home, files = join(store.root, "models", "nano"), assets.demo_video().parent / "nano"
    with filesystems.configured(store.options):
        for path in files.rglob("*"):
            if path.is_file():
                storage.publish(path, join(home, str(path.relative_to(files))))
        model = find_model(home)
        model.fetch()
        assert model.load(device="cpu").checkpoint == find_model("nano").load(device="cpu").checkpoint


def test_what_is_refused_says_so_without_the_secret(store: Store, tmp_path: Path) -> None:
    """A store that nobody answers for, and a manifest that is not there."""
    (protocol,) = store.options
    config = {"output": str(tmp_path / "out"), "storage_options": store.options, "recipe": {"model": "toy:TOY"}}
    for manifest in (f"{protocol}://films/none.jsonl", f"{protocol}://nobodys/pairs.jsonl"):
        (tmp_path / "job.yaml").write_text(json.dumps({**config, "manifest": manifest}))
        said = subprocess.run(**command("run", str(tmp_path / "job.yaml")), capture_output=True, text=True)
        assert said.returncode == 2
        assert f"cannot read the manifest: {manifest}" in said.stderr
        assert "Traceback" not in said.stderr
        assert leaks(said.stdout, said.stderr) == []


class _Reader(threading.Thread):
    """Reads whatever is visible, again and again."""

    def __init__(self, output: str) -> None:
        super().__init__(daemon=True)
        self.output, self.ended, self.read, self.wrong = output, threading.Event(), 0, list[str]()

    def run(self) -> None:
        while not self.ended.is_set():
            for folder in ("clips", "metadata"):
                for uri in storage.list_files(join(self.output, folder)):
                    try:
                        check_whole(uri)
                    except Exception as error:  # noqa: BLE001
                        if folder == "clips" or storage.exists(uri):  # tables are merged, and then removed
                            self.wrong.append(f"{uri}: {error!r}")
                    self.read += 1
            time.sleep(0.02)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray writes its logs: names of its sockets may not be long."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_reader_never_sees_half_an_object(
    runner: str, store: Store, pairs: tuple[Path, Path], tmp_path: Path, ray_folder: Path
) -> None:
    output = write_job(tmp_path / "job.yaml", store, f"read by {runner}", pairs, runner)
    run = command("run", str(tmp_path / "job.yaml"), RAY_TMPDIR=str(ray_folder))
    said = tmp_path / "log"
    with filesystems.configured(store.options), said.open("wb") as log:
        reader = _Reader(output)
        reader.start()
        for clips in (1, 2, 4):
            process = subprocess.Popen(**run, stdout=log, stderr=log, start_new_session=True)
            until = time.monotonic() + 240
            while process.poll() is None and len(storage.list_files(join(output, "clips"))) < clips:
                assert time.monotonic() < until, said.read_text()
                time.sleep(0.01)
            time.sleep(0.07 * clips)  # wherever that is
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert subprocess.run(**run, stdout=log, stderr=log).returncode == 0, said.read_text()
        reader.ended.set()
        reader.join()
        assert reader.wrong == []
        assert reader.read > 3 * CLIPS
        assert [row["status"] for row in read_records(output).to_pylist()] == ["ok"] * CLIPS
        assert storage.find_files(join(output, "_work")) == []
        assert leaks(said.read_bytes(), *everything_at(output)) == []
    logs = [path.read_bytes() for path in ray_folder.rglob("*") if path.is_file()]
    assert bool(logs) == (runner == "ray"), "all that Ray leaves behind was looked at, too"
    assert leaks(*logs) == []
