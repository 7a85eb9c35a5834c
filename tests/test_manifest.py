from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentsync_ray.errors import ConfigError
from latentsync_ray.manifest import extra_columns, read_manifest, to_pair

ROWS = [
    {"clip_id": "anna", "video": "v/anna.mp4", "audio": "/speech/anna.wav"},
    {"clip_id": "ben", "video": "s3://bucket/ben.mp4", "audio": "a/ben.wav"},
]


def write(folder: Path, kind: str, rows: list[dict]) -> str:
    path = folder / f"manifest.{kind}"
    match kind:
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "csv":
            lines = [list(rows[0]), *([row.get(name) for name in rows[0]] for row in rows)]
            path.write_text("".join(",".join("" if value is None else str(value) for value in line) + "\n" for line in lines))
        case _:
            path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(path)


def pairs(table: pa.Table) -> list:
    return [to_pair(table, index) for index in range(len(table))]


# What can be read


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "ndjson"])
def test_files(tmp_path, kind):
    table = read_manifest(write(tmp_path, kind, ROWS))
    assert table.select(["clip_id", "video", "audio"]).to_pylist() == [
        {"clip_id": "anna", "video": f"{tmp_path}/v/anna.mp4", "audio": "/speech/anna.wav"},
        {"clip_id": "ben", "video": "s3://bucket/ben.mp4", "audio": f"{tmp_path}/a/ben.wav"},
    ]
    assert [(pair.clip_id, pair.seed, pair.error_code) for pair in pairs(table)] == [("anna", None, None), ("ben", None, None)]


def test_relative_manifest_gives_absolute_uris(tmp_path, monkeypatch):
    write(tmp_path, "csv", ROWS)
    monkeypatch.chdir(tmp_path)
    assert read_manifest("manifest.csv")["video"][0].as_py() == f"{tmp_path}/v/anna.mp4"


@pytest.mark.parametrize("name", ["folder", "folder.parquet"])
def test_a_folder_of_parquet(tmp_path, name):
    (tmp_path / name).mkdir()
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row | ({"speaker": 7} if number else {})]), tmp_path / name / f"{number}.parquet")
    (tmp_path / name / "_SUCCESS").touch()
    table = read_manifest(str(tmp_path / name))
    assert table["clip_id"].to_pylist() == ["anna", "ben"]
    assert table["speaker"].to_pylist() == [None, 7]
    assert table["video"][0].as_py() == f"{tmp_path}/{name}/v/anna.mp4"


def test_object_store():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/data/m.csv", b"video,audio\nv.mp4,gs://b/a.wav\n")
    fs.pipe_file("/pairs/x.mp4", b"")
    fs.pipe_file("/pairs/x.wav", b"")
    table = read_manifest("memory://data/m.csv")
    assert table.select(["video", "audio"]).to_pylist() == [{"video": "memory://data/v.mp4", "audio": "gs://b/a.wav"}]
    assert read_manifest("memory://pairs")["audio"].to_pylist() == ["memory://pairs/x.wav"]


def test_a_folder_of_pairs(tmp_path):
    for name in ["anna.MP4", "anna.wav", "ben.2.mov", "ben.2.flac", "notes.txt", ".hidden.mp4"]:
        (tmp_path / name).touch()
    table = read_manifest(str(tmp_path))
    assert [pair.video.rsplit("/", 1)[1] for pair in pairs(table)] == ["anna.MP4", "ben.2.mov"]
    assert [pair.audio.rsplit("/", 1)[1] for pair in pairs(table)] == ["anna.wav", "ben.2.flac"]


def test_a_folder_with_stems_that_do_not_pair(tmp_path):
    for name in ["ok.mp4", "ok.wav", "twice.mp4", "twice.mov", "twice.wav", *(f"lonely{i}.mp4" for i in range(6))]:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"lonely0 \(1 videos, 0 audios\), .* and 2 more"):
        read_manifest(str(tmp_path))


def test_csv_details(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(b'\xef\xbb\xbfclip_id,video,audio,note\n007,"a, b.mp4",a.wav,"two\nlines"\n008,N/A.mp4,a.wav,\n')
    table = read_manifest(str(path))
    assert table["clip_id"].to_pylist() == ["007", "008"]
    assert table["video"].to_pylist() == [f"{tmp_path}/a, b.mp4", f"{tmp_path}/N/A.mp4"]
    assert table["note"].to_pylist() == ["two\nlines", None]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("m.csv", b"", "is empty"),
        ("m.csv", b"film,audio\n", "has no column 'video'; it has film, audio"),
        ("m.csv", b"video,audio,video\na,b,c\n", "'video' more than once"),
        ("m.csv", b"video,audio\na,b,c\n", r"row 1 has 3 values, and the header 2 \('a,b,c'\); put values that hold commas in"),
        ("m.csv", b"video,audio\n\xff\xfe,b\n", r"line 2 is not in UTF-8 .*iconv -f WINDOWS-1252 -t UTF-8"),
        ("m.csv", b"video;audio\na;b\n", r"m\.csv has semicolons between its columns"),
        ("m.csv", b"video\taudio\na\tb\n", r"m\.csv has tabs between its columns"),
        ("m.jsonl", b"", "is empty"),
        ("m.jsonl", b'{"video": "a"\n', "line 1 is not valid JSON"),
        ("m.jsonl", b'{"video": "a", "audio": "b"}\n[1]\n', "line 2 must be an object"),
        ("m.jsonl", b'{"video": "a", "audio": 5}\n', "line 1: audio is 5; it must be text"),
        ("m.jsonl", b'{"video": "a", "audio": "b", "x": 1}\n{"video": "a", "audio": "b", "x": "y"}', "column 'x' mixes types"),
        ("m.parquet", b"not parquet at all", "cannot read the manifest"),
        ("m.parquet/readme.txt", b"", "cannot read the manifest"),
        ("m.xlsx", b"", "no manifest at"),
        ("folder/readme.txt", b"", "no manifest at"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, why):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        read_manifest(str(tmp_path / name.split("/")[0]))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "none"])
def test_a_manifest_that_is_not_there(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"manifest.*{tmp_path}/{name}"):
        read_manifest(str(tmp_path / name))


def test_a_column_that_is_not_text(tmp_path):
    uri = write(tmp_path, "parquet", [{"video": "a", "audio": None}, {"video": "a", "audio": 5}])
    with pytest.raises(ConfigError, match=r"audio of row 2 is 5 \(int64\)"):
        read_manifest(uri)


# Clip ids


def ids_of(tmp_path: Path, *rows: dict) -> list[str]:
    return read_manifest(write(tmp_path, "parquet", list(rows)))["clip_id"].to_pylist()


def test_made_ids_are_readable_stable_and_tell_pairs_apart(tmp_path):
    rows = [{"video": "in/anna smith.v2.mp4", "audio": audio} for audio in ("/de.wav", "/fr.wav")]
    first, second = ids_of(tmp_path, *rows)
    assert first.startswith("anna_smith_v2-")
    assert len(first) == len("anna_smith_v2-") + 12
    assert first != second
    assert ids_of(tmp_path, *reversed(rows)) == [second, first]


@pytest.mark.parametrize(
    ("video", "stem"),
    [
        ("https://host/film.mp4?token=a/b", "film"),
        ("data:video/mp4;base64,AAAA/BBBB", "clip"),
        ("/x/..hidden", "clip"),
        ("/x/漢字.mp4", "漢字"),
        ("/x/" + "漢" * 80 + ".mp4", "漢" * 40),
        ("/x/a::b.mp4", "a_b"),
        ("/x/--rf.mp4", "rf"),
    ],
)
def test_made_ids_are_file_names(tmp_path, video, stem):
    (clip_id,) = ids_of(tmp_path, {"video": video, "audio": "a.wav"})
    assert clip_id.rpartition("-")[0] == stem


SIGNED = "https://me:{0}@h.example/a.mp4?X-Amz-Credential={0}&X-Amz-Signature={0}&versionId=3"


def ids(folder: Path, *videos: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    return read_manifest(write(folder, "jsonl", [{"video": each, "audio": "/a.wav"} for each in videos]))["clip_id"].to_pylist()


def test_made_ids_hold_no_secret_and_survive_another_signature(tmp_path):
    first, again = ids(tmp_path / "one", SIGNED.format("S3CRET")), ids(tmp_path / "two", SIGNED.format("0THER"))
    assert first == again
    assert first != ids(tmp_path / "three", SIGNED.format("S3CRET").replace("versionId=3", "versionId=4"))
    for bare in ("https://me:S3CRET@h.example", "https://h.example/a;jsessionid=S3CRET.mp4", "https://S3CRET@h.example/"):
        assert "S3CRET" not in ids(tmp_path / "bare", bare)[0]


@pytest.mark.parametrize(
    ("video", "clip_id"),
    [
        ("/clips/anna.mp4", "anna-70324e46fb60"),
        ("s3://bucket/take#3.mp4", "take-d65cf740b18a"),
        ("https://h.example/get?file=7&page=2", "get-1c6b88082098"),
        ("data:video/mp4;base64,AAAA", "clip-c9b968885de6"),
    ],
)
def test_ids_of_harmless_addresses_are_those_of_earlier_versions(tmp_path, video, clip_id):
    assert ids(tmp_path, video) == [clip_id]


def test_objects_that_only_a_token_tells_apart_get_an_id_each(tmp_path):
    urls = ["https://h.example/get?token=one", "https://h.example/get?token=two", "https://h.example/get.mp4?token=one"]
    made = ids(tmp_path, *urls)
    assert len(set(made)) == 3
    assert made == ids(tmp_path, *urls)
    with pytest.raises(ConfigError, match="rows 1 and 2 have the same clip_id"):
        ids(tmp_path, urls[0], urls[0])


def test_mistakes_in_a_manifest_are_told_without_its_secrets(tmp_path):
    secret = "https://me:S3CRET@h.example/a.mp4?sig=S3CRET"
    wrong = {"list.jsonl": json.dumps({"video": [secret], "audio": "a"}), "more.csv": f"video,audio\na.mp4,{secret},{secret}\n"}
    for name, content in wrong.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError) as caught:
            read_manifest(str(tmp_path / name))
        assert "h.example/a.mp4?***" in str(caught.value)
        assert "S3CRET" not in str(caught.value)


def test_rows_without_an_id_get_one(tmp_path):
    ids = ids_of(tmp_path, *({"clip_id": given, "video": "v.mp4", "audio": f"{given}.wav"} for given in ("mine", None, "")))
    assert ids[0] == "mine"
    assert all(made.startswith("v-") for made in ids[1:])
    assert ids[1] != ids[2]


@pytest.mark.parametrize(
    "bad", ["a/b", "a\\b", "/etc/passwd", "..", "a..b", ".hidden", "a\0b", "a\nb", "a::b", "x" * 181, "漢" * 61]
)
def test_ids_that_cannot_be_file_names(tmp_path, bad):
    with pytest.raises(ConfigError, match=r"clip_id of row 2 is .*rename it"):
        ids_of(tmp_path, *({"clip_id": each, "video": "v", "audio": "a"} for each in ("good", bad)))


@pytest.mark.parametrize("good", ["x" * 180, "a b", "a.b", "Ünï-漢 (1)", "a*?[b]", "-"])
def test_ids_that_can(tmp_path, good):
    assert ids_of(tmp_path, {"clip_id": good, "video": "v", "audio": "a"}) == [good]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_ids_that_are_numbers_become_text(tmp_path, kind):
    rows = [{"clip_id": number, "video": "v", "audio": "a"} for number in (7, 2**40)]
    assert read_manifest(write(tmp_path, kind, rows))["clip_id"].to_pylist() == ["7", str(2**40)]


def test_ids_that_are_neither_text_nor_whole_numbers(tmp_path):
    with pytest.raises(ConfigError, match=r"clip_id of row 1 is 7\.5 \(double\)"):
        ids_of(tmp_path, {"clip_id": 7.5, "video": "v", "audio": "a"})
    with pytest.raises(ConfigError, match="line 1: clip_id is True"):
        read_manifest(write(tmp_path, "jsonl", [{"clip_id": True, "video": "v", "audio": "a"}]))


def test_ids_must_be_unique(tmp_path):
    rows = [{"clip_id": each, "video": "v", "audio": "a"} for each in ("a", "b", "a")]
    with pytest.raises(ConfigError, match="rows 1 and 3 have the same clip_id 'a'"):
        ids_of(tmp_path, *rows)
    with pytest.raises(ConfigError, match=r"rows 1 and 2 have the same clip_id 'v-.*column 'clip_id'"):
        ids_of(tmp_path, *({"video": "v", "audio": "a"} for _ in range(2)))


# Values of a row

NONE = {"guidance_scale": None, "seed": None, "loop_mode": None}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_settings(tmp_path, kind):
    rows = [
        {"guidance_scale": 1.5, "seed": 2**63 - 1, "loop_mode": "loop"},
        {"guidance_scale": 2, "seed": 7.0, "loop_mode": " pingpong "},
        NONE,
        {"guidance_scale": "NaN", "seed": "", "loop_mode": " "},
    ]
    table = read_manifest(
        write(tmp_path, kind, [{"clip_id": str(i), "video": "v", "audio": "a", **r} for i, r in enumerate(rows)])
    )
    assert [(p.guidance_scale, p.seed, p.loop_mode, p.error) for p in pairs(table)] == [
        (1.5, 2**63 - 1, "loop", None),
        (2.0, 7, "pingpong", None),
        (None, None, None, None),
        (None, None, None, None),
    ]


def test_typed_settings(tmp_path):
    rows = [{"guidance_scale": float("nan"), "seed": 5.0}, {"guidance_scale": 1.25, "seed": None}]
    table = read_manifest(
        write(tmp_path, "parquet", [{"clip_id": str(i), "video": "v", "audio": "a", **r} for i, r in enumerate(rows)])
    )
    assert [(p.guidance_scale, p.seed) for p in pairs(table)] == [(None, 5), (1.25, None)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"guidance_scale": 7}, "guidance_scale is .*7.*: input should be less than or equal to 2"),
        ({"loop_mode": "bounce"}, "loop_mode is 'bounce': input should be 'pingpong' or 'loop'"),
        ({"seed": "x"}, "seed is 'x': input should be a valid integer"),
        ({"seed": 1.5}, "seed is .*1.5.*: input should be a valid integer"),
        ({"seed": -1}, "seed is .*-1.*: input should be greater than or equal to 0"),
        ({"video": None}, "video is empty; it must be a path or URI"),
        ({"audio": " "}, "audio is empty"),
    ],
)
def test_a_wrong_value_is_that_row_s_failure(tmp_path, kind, wrong, why):
    good = {"clip_id": "good", "video": "v", "audio": "a"}
    (column,) = wrong
    rows = [good | ({column: None} if column in NONE else {}), good | {"clip_id": "bad"} | wrong]
    fine, failed = pairs(read_manifest(write(tmp_path, kind, rows)))
    assert (fine.error_code, failed.error_code, failed.clip_id) == (None, "invalid_pair", "bad")
    assert failed.error is not None
    assert failed.error.startswith("row 2: ")
    assert re.search(why, failed.error)


# Other columns


def test_other_columns_are_carried_as_they_are(tmp_path):
    extra = pa.table(
        {
            "clip_id": ["a"],
            "video": ["v"],
            "seed": [5],
            "tags": pa.array([["x", "y"]]),
            "audio": ["a"],
            "score": pa.array([0.5], pa.float32()),
            "seen": pa.array([0], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(extra, tmp_path / "m.parquet")
    carried = extra_columns(read_manifest(str(tmp_path / "m.parquet")))
    assert carried.column_names == ["clip_id", "tags", "score", "seen"]
    assert carried.drop_columns("clip_id").equals(extra.select(["tags", "score", "seen"]))


def test_columns_with_our_names_are_carried_too(tmp_path):
    table = read_manifest(write(tmp_path, "csv", [{"video": "v", "audio": "a", "duration": "long", "status": "x"}]))
    assert extra_columns(table).select(["duration", "status"]).to_pylist() == [{"duration": "long", "status": "x"}]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_language_of_the_speech(tmp_path, kind):
    rows = [
        {"clip_id": str(n), "video": "v", "audio": "a", "language": each} for n, each in enumerate(["de", None, " pt-BR ", ""])
    ]
    table = read_manifest(write(tmp_path, kind, rows))
    assert [pair.language for pair in pairs(table)] == ["de", None, "pt-BR", None]
    assert extra_columns(table).column_names == ["clip_id"]


def test_categories_of_pandas_are_text(tmp_path: Path) -> None:
    columns = {"video": ["a.mp4", "b.mp4"], "audio": ["a.wav", "b.wav"], "clip_name": ["x/de", "y/fr"], "take": ["1", "1"]}
    table = pa.table({name: pa.array(values).dictionary_encode() for name, values in columns.items()})
    pq.write_table(table, tmp_path / "pairs.parquet")
    read = read_manifest(str(tmp_path / "pairs.parquet"))
    assert read["clip_name"].to_pylist() == ["x/de", "y/fr"]
    assert {read.schema.field(name).type for name in read.column_names} == {pa.string()}


def test_a_setting_that_is_a_list_is_named(tmp_path: Path) -> None:
    table = pa.table({"video": ["a.mp4"] * 2, "audio": ["a.wav", "b.wav"], "seed": [None, [7, 8]]})
    pq.write_table(table, tmp_path / "pairs.parquet")
    with pytest.raises(ConfigError, match=r"seed of row 2 is \[7, 8\] \(list<.*>\); the column must hold single values"):
        read_manifest(str(tmp_path / "pairs.parquet"))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (r'"note": "\ud800"', "column 'note' cannot be read: .*no half of a character"),
        (r'"language": "\ud800"', "column 'language' cannot be read"),
        ('"note": 99999999999999999999999', "column 'note' cannot be read: .*64 bits at most"),
        ('"note": ' + "9" * 5000, "line 1 cannot be read"),
        ('"note": ' + "[" * 20_000 + "]" * 20_000, "line 1 cannot be read"),
    ],
    ids=["text", "language", "number", "digits", "brackets"],
)
def test_json_that_no_table_can_hold_is_told(tmp_path, more: str, why: str):
    (tmp_path / "p.jsonl").write_text(f'{{"video": "v.mp4", "audio": "a.wav", {more}}}\n')
    with pytest.raises(ConfigError, match=why):
        read_manifest(str(tmp_path / "p.jsonl"))


def test_a_file_whose_name_is_not_in_utf_8_is_told(tmp_path):
    for ending in (b"mp4", b"wav"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff." + ending)).touch()
    with pytest.raises(ConfigError, match=r"the name of the file 'x\\udcff' is not in UTF-8; rename it"):
        read_manifest(str(tmp_path))
