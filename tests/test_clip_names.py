"""Where clips lie: what a template makes of a manifest's columns, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from latentsync_ray import ConfigError, Job
from latentsync_ray.clip_names import clip_names, unusable
from latentsync_ray.errors import ConfigError as WrongJob
from latentsync_ray.job_file import build_job
from latentsync_ray.manifest import read_manifest, to_pair
from latentsync_ray.naming import DEFAULT_TEMPLATE

ROWS = {
    "clip_id": ["a", "b"],
    "video": ["/x/My Video.mp4", "https://host/p/talk.v2.mp4?sig=a/b"],
    "audio": ["/x/one.wav", "/x/two.wav"],
    "language": ["de", "pt-BR"],
    "take": [1, 2],
}


def names(template: str, **columns: list[object]) -> list[str]:
    found = clip_names(pa.table({**ROWS, **columns}), template, "pairs.csv")
    assert found is not None
    return found.to_pylist()


def test_a_template_is_filled_from_columns_and_file_names() -> None:
    assert names("{video_stem}/{language}") == ["My Video/de", "talk.v2/pt-BR"]
    assert names("take {take}/{audio_stem}-{clip_id}") == ["take 1/one-a", "take 2/two-b"]


def test_only_the_template_makes_folders() -> None:
    assert names("{clip_id}/{title}", title=["a/b: c", "..\\up?"]) == ["a/a_b_ c", "b/_up_"]


def test_without_template_and_column_a_clip_is_called_by_its_id() -> None:
    assert clip_names(pa.table(ROWS), DEFAULT_TEMPLATE, "pairs.csv") is None
    assert names(DEFAULT_TEMPLATE, clip_name=["talk/de", None]) == ["talk/de", "b"]


@pytest.mark.parametrize(
    ("template", "columns", "told"),
    [
        ("{nope}", {}, "no column 'nope'; known are video_stem, audio_stem, clip_id, video"),
        ("{language}", {"language": ["de", None]}, "row 2 has no language"),
        ("{language}", {"language": ["de", "DE"]}, "rows 1 and 2 one name, 'DE'"),
        ("{language}/", {}, "row 1 the name 'de/'"),
        ("../{clip_id}", {}, "row 1 the name '../a'"),
        ("{clip_id}.mp4/{language}", {}, "no folder end in .mp4"),
        ("{title}", {"title": ["é" * 91, "b"]}, "row 1 the name 'é"),
        ("{score}", {"score": [0.5, 1.0]}, "only text and whole numbers"),
        (DEFAULT_TEMPLATE, {"clip_name": ["/etc/passwd", "b"]}, "row 1 the name '/etc/passwd'"),
        (DEFAULT_TEMPLATE, {"clip_name": ["a", "{video_stem}/de"]}, "row 2 the name '{video_stem}/de'"),
    ],
)
def test_names_that_cannot_be_are_refused_before_work_starts(
    template: str, columns: dict[str, list[object]], told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        names(template, **columns)
    assert told in str(refused.value)


@pytest.mark.parametrize("template", ["clips", "{", "{}", "{clip_id!r}", "{clip_id:>9}"])
def test_a_template_has_to_be_one(template: str) -> None:
    with pytest.raises(WrongJob, match="clip_name"):
        build_job({"manifest": "m.csv", "output": "/o", "clip_name": template}, source="job.yaml")


def test_ninety_letters_of_two_bytes_fit_and_one_more_does_not() -> None:
    assert unusable(pa.chunked_array([["é" * 90, "é" * 91, "a/" * 3 + "b", "x" * 180, "x" * 181]])).to_pylist() == [
        False,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(("first", "second"), [("anna", "Anna"), ("caf\u00e9", "CAFE\u0301")])
def test_ids_that_some_disks_take_for_one_are_refused(first: str, second: str, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text(f"clip_id,video,audio\n{first},a.mp4,a.wav\nben,b.mp4,b.wav\n{second},c.mp4,c.wav\n")
    for template in (DEFAULT_TEMPLATE, "{video_stem}"):
        with pytest.raises(ConfigError, match=f"clip_ids of rows 1 and 3, '{first}' and '{second}', would be one file"):
            read_manifest(str(file), template)


def test_the_manifest_hands_names_to_its_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("video,audio,language\ntalk.mp4,de.wav,de\ntalk.mp4,fr.wav,fr\n")
    table = read_manifest(str(file), "{video_stem}/{language}")
    assert [to_pair(table, row).clip_name for row in range(2)] == ["talk/de", "talk/fr"]
    assert to_pair(read_manifest(str(file)), 0).clip_name is None
    assert Job(manifest=file, output=tmp_path).clip_name == DEFAULT_TEMPLATE


@pytest.mark.parametrize(
    "uri",
    [
        "simplecache::https://h/a.mp4?X-Sig=S3CRET.part",
        "HTTPS://h/a.mp4?X-Sig=S3CRET.x",
        "ftp://user:S3CRET@h/a.mp4?x=S3CRET.y",
        "gs://b/a.mp4?X-Goog-Signature=S3CRET.zz",
    ],
)
def test_no_secret_of_an_address_gets_into_a_name(uri: str) -> None:
    table = pa.table({"clip_id": ["a", "b"], "video": [uri, None], "audio": ["a.wav", "b.wav"]})
    made = clip_names(table.slice(0, 1), "{video_stem}/x", "m.csv")
    assert made is not None
    assert made.to_pylist() == ["a/x"]
