"""The Ray runner when things go wrong: workers that die, bugs, models that are not there."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from processes import cpu_workers, kill_soon, model_workers

from latentsync_ray import Cluster, ConfigError, Job, ModelError, Pair, Recipe
from latentsync_ray.driver import dub
from latentsync_ray.pipeline import check_nodes, cluster, connect, join_parts, told
from latentsync_ray.pipeline.turns import Turns
from latentsync_ray.stages.join import Join
from latentsync_ray.types import ClipRecord, Part

RECIPE = Recipe(model="tiny-random", steps=1, preset="ultrafast")
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("pairs")
    write_speech(folder / "speech.wav", speech_like(0.8))
    write_clip(folder / "talk.mp4", portrait(20))
    write_clip(folder / "red.mp4", np.full((20, 96, 96, 3), (230, 20, 20), np.uint8))
    names = ["talk", "talk", "red", "talk"]
    return [
        Pair(clip_id=f"{name}{number}", video=str(folder / f"{name}.mp4"), audio=str(folder / "speech.wav"))
        for number, name in enumerate(names)
    ]


def job(output: Path, **recipe: object) -> Job:
    return Job(
        manifest="none",
        output=str(output),
        recipe=RECIPE.model_copy(update=recipe),
        cluster=Cluster(passes=2, no_progress_seconds=240),
    )


def records(results: Iterator[Part | ClipRecord]) -> dict[str, str]:
    found = [result for result in results if isinstance(result, ClipRecord)]
    assert len({record.clip_id for record in found}) == len(found), "one record per clip"
    return {record.clip_id: record.error_code or record.status for record in found}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc")
def test_a_killed_model_worker_costs_nothing_but_time(
    pairs: list[Pair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, killed = [], False
    for result in dub(pairs, job(tmp_path)):
        if not killed:
            for pid in model_workers():
                os.kill(pid, signal.SIGKILL)
                killed = True
        results.append(result)
    assert killed
    assert records(iter(results)) == {"talk0": "ok", "talk1": "ok", "red2": "no_face", "talk3": "ok"}
    assert capsys.readouterr() == ("", ""), "Ray's messages about it lie in its log files"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the worker in /proc")
def test_neither_does_a_killed_worker_of_another_stage(
    pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, clips = Turns._add_inner, []

    def noted(turns: Turns, bundle: Any, **options: Any) -> None:
        add(turns, bundle, **options)
        clips.append(bundle.metadata[0].exec_stats.task_idx)

    monkeypatch.setattr(Turns, "_add_inner", noted)
    killed = kill_soon(cpu_workers)
    assert records(dub(pairs, job(tmp_path))) == {"talk0": "ok", "talk1": "ok", "red2": "no_face", "talk3": "ok"}
    assert killed
    assert len(set(clips)) == len(pairs), "Ray Data has its queue take turns by clips"


@pytest.fixture(scope="module")
def many(pairs: list[Pair]) -> list[Pair]:
    """More clips than may be joined at once."""
    return [replace(pairs[0], clip_id=clip_id) for clip_id in ("odd", *(f"talk{number}" for number in range(9)))]


def test_clips_that_kill_their_worker_or_meet_a_bug_do_not_stop_the_others(
    many: list[Pair], pairs: list[Pair], tmp_path: Path
) -> None:
    blue = write_clip(tmp_path / "blue.mp4", np.full((20, 96, 96, 3), (20, 20, 230), np.uint8))
    clips = [*many, pairs[2], Pair(clip_id="blue", video=str(blue), audio=pairs[0].audio)]
    results = list(dub(clips, job(tmp_path, detector="faulty:Faulty").model_copy(update={"sink": "faulty:FaultySink"})))
    bugs = {"blue": "internal_error", "odd": "internal_error"}
    assert records(iter(results)) == {"red2": "worker_died"} | bugs | {f"talk{number}": "ok" for number in range(9)}
    told = {
        result.clip_id: str(result.error) for result in results if isinstance(result, ClipRecord) and result.clip_id in bugs
    }
    for clip_id, place in (("blue", "detector"), ("odd", "sink")):
        assert told[clip_id].startswith(f"ZeroDivisionError: a bug in a {place} (a bug; please report it)\n")
        assert "faulty.py" in told[clip_id]


def test_a_setting_that_only_a_join_can_check_stops_the_job(pairs: list[Pair]) -> None:
    def refuse(parts: list[Part]) -> ClipRecord:
        raise ConfigError(f"no place for {parts[0].clip_id}")

    joined = join_parts(cast("Join", refuse), [Part.of_failed(pairs[0])], {})
    with pytest.raises(ConfigError, match="no place for talk0"):
        told(joined, RECIPE)


def test_a_setting_that_only_workers_can_check_stops_the_job_at_once(pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown detector 'nonsense'"):
        records(dub(pairs, job(tmp_path, detector="nonsense")))


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"cluster\.address is 'auto', and no Ray cluster answers there: Failed to connect"):
        connect(Cluster(address="auto"))
    monkeypatch.setattr(cluster, "_HEAD_SECONDS", 1.0)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match=r"no Ray cluster answers there: .*refused"):
            connect(Cluster(address=f"127.0.0.1:{nobody.getsockname()[1]}"))


def test_a_cluster_that_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        cause = RuntimeError("Failed to connect to GCS. ... RPC error: InvalidAuthToken: Authentication token is missing")
        raise ConnectionError("Failed to connect to Ray cluster") from cause

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match=r"cluster\.address is 'auto', and .* wants its token: set RAY_AUTH_MODE=token"):
        connect(Cluster(address="auto"))


def test_nodes_are_asked_whether_they_see_what_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = job(tmp_path / "out")
    check_nodes(asked)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "no mark is left behind"
    monkeypatch.setattr(cluster, "write_bytes", lambda *_: None)  # a folder that only the driver sees
    with pytest.raises(ConfigError, match=r"output is .*/out, a path that 1 of the cluster's 1 nodes do not see"):
        check_nodes(asked)
    monkeypatch.setattr(cluster, "_NODE_SECONDS", 0.0)
    check_nodes(asked)  # one that is silent is not accused
    assert "1 of 1 nodes did not say" in caplog.text


def test_a_model_that_is_not_there_stops_the_job_at_once(pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model 'latentsync-9'"):
        records(dub(pairs, job(tmp_path, model="latentsync-9")))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "latentsync.json").write_text('{"resolution": 128}')
    with pytest.raises(ModelError, match="no weights"):
        records(dub(pairs, job(tmp_path, model=str(tmp_path / "model"))))


def test_a_first_pass_that_waits_in_vain_blames_no_clip(pairs: list[Pair], tmp_path: Path) -> None:
    waiting = Cluster(generate_gpus=99, no_progress_seconds=3)
    with pytest.raises(ConfigError, match="of 4 clips nothing came in 3 s") as caught:
        list(dub(pairs, job(tmp_path).model_copy(update={"cluster": waiting})))
    told = str(caught.value)
    assert "at least 1 model workers of 99 GPU each, and by task 0.5 CPU to track, 0.5 CPU to crop, 0.5 CPU to generate" in told
    assert "and 2 CPU (" in told
    logs = re.search(r"Ray's logs \((.*?)\)", told)
    assert logs
    assert Path(logs[1]).is_dir()
