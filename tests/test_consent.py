"""Rows without a consent fail before anything of them is read, where a job requires it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from typer.testing import CliRunner

from latentsync_ray import Cluster, Job, Pair, Recipe, read_records, run, storage
from latentsync_ray.cli import app
from latentsync_ray.consent import consented
from latentsync_ray.errors import ConfigError
from latentsync_ray.forecast import forecast
from latentsync_ray.manifest import read_manifest
from latentsync_ray.marking import Require
from latentsync_ray.records.schema import upgraded

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1, preset="ultrafast")
ROWS = "clip_id,video,audio,consent\nyes,talk.mp4,say.wav,form 17\nno,memory://secret/a.mp4,memory://secret/a.wav,{}\n"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_clip(folder / "talk.mp4", portrait(20))
    write_speech(folder / "say.wav", speech_like(0.8))
    return folder


def job(inputs: Path, output: Path, consent: str = "", **fields: Any) -> Job:
    (inputs / "pairs.csv").write_text(ROWS.format(consent))
    asked = {"manifest": inputs / "pairs.csv", "recipe": RECIPE, "cluster": Cluster(runner="local"), "failure_budget": 1}
    return Job(output=output, **{**asked, "require": Require(consent=True), **fields})


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of which storage was asked anything."""
    asked: list[str] = []
    for name in ("fetch", "fetch_version", "version", "seen", "exists", "download", "read_bytes"):
        own = getattr(storage, name)

        def noted(uri: str, *args: Any, own: Any = own, **how: Any) -> Any:
            asked.append(uri)
            return own(uri, *args, **how)

        monkeypatch.setattr(storage, name, noted)
    return asked


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_row_without_consent_costs_nothing(blank: str, inputs: Path, tmp_path: Path, asked_for: list[str]) -> None:
    asked = job(inputs, tmp_path / "out", blank)
    told = forecast(asked)
    assert told.failures == {"not_consented": 1}
    assert told.examples["not_consented"].startswith("no: row 2: consent is empty")
    assert (told.new, told.frames) == (2, 20)
    summary = run(asked)
    assert (summary.ok, summary.failed) == (1, 1)
    assert not [uri for uri in asked_for if "secret" in uri]
    assert [uri for uri in asked_for if "talk.mp4" in uri], "of the other row it was asked"
    rows = {row["clip_id"]: row for row in read_records(tmp_path / "out").to_pylist()}
    assert (rows["yes"]["status"], rows["yes"]["consent"]) == ("ok", "form 17")
    assert (rows["no"]["error_code"], rows["no"]["consent"], rows["no"]["video_sha256"]) == ("not_consented", None, None)
    assert rows["no"]["error"].startswith("row 2: consent is empty, and the job requires it (require.consent)")


def test_a_consent_that_comes_later_is_seen_by_the_next_run(inputs: Path, tmp_path: Path) -> None:
    assert run(job(inputs, tmp_path / "out")).failed == 1
    again = run(job(inputs, tmp_path / "out", "form 18"))
    assert (again.ok, again.failed, again.done_before) == (0, 1, 1)
    code = read_records(tmp_path / "out").filter(pc.field("clip_id") == "no")["error_code"][0].as_py()
    assert code == "input_not_found", "now it was looked for"


def test_clips_that_were_made_before_stay_and_are_told(inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (inputs / "alone.csv").write_text("clip_id,video,audio\nyes,talk.mp4,say.wav\n")
    before = job(inputs, tmp_path / "out", manifest=inputs / "alone.csv", require=Require())
    assert run(before).ok == 1
    (tmp_path / "job.yaml").write_text(
        json.dumps({**json.loads(before.model_dump_json()), "require": {"consent": True}})  # YAML holds JSON
    )
    told = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml")])
    assert told.exit_code == 0, told.output
    assert "1 clip made before without consent: kept; to withdraw one, remove its row and prune" in told.output


def test_without_a_column_no_row_has_consent(tmp_path: Path) -> None:
    table = pa.table({"clip_id": ["a", "b"]})
    assert consented(table).tolist() == [False, False]
    table = pa.table({"consent": pa.chunked_array([["x", None], ["", " ", "urn:x"]])})
    assert consented(table).tolist() == [True, False, False, False, True]


def test_a_consent_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"video": "v.mp4", "audio": "a.wav", "consent": true}\n')
    with pytest.raises(ConfigError, match="line 1: consent is True; it must be text"):
        read_manifest(str(tmp_path / "a.jsonl"))
    assert Pair(clip_id="a", video="v", audio="a", consent=" ").consent is None


def test_a_column_of_that_name_in_an_older_table_is_the_users() -> None:
    old = pa.table({"clip_id": ["a"], "status": ["ok"], "consent": [True]})
    assert upgraded(old).column_names == ["clip_id", "status", "manifest_consent"]
    ours = {name: ["x"] for name in ("consent", "signed_by", "content_sha256", "attempts")}
    new = pa.table({"clip_id": ["a"], "status": ["ok"], **ours})
    assert upgraded(new).column_names == new.column_names
