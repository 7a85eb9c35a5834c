from __future__ import annotations

import hashlib
import pickle

import pytest

from latentsync_ray.registry import SINKS, lookup
from latentsync_ray.sinks.file import FileSink
from latentsync_ray.sinks.mp4 import Mp4Sink


def test_mp4_sink_publishes_under_the_clip_id(tmp_path):
    local = tmp_path / "work.mp4"
    local.write_bytes(b"not really a film")
    sink = lookup(SINKS, "mp4", "sink")(f"{tmp_path}/out/")
    published = pickle.loads(pickle.dumps(sink)).publish(local, "anna")
    target = tmp_path / "out" / "clips" / "anna.mp4"
    assert published.uri == sink.uri("anna") == str(target)
    assert target.read_bytes() == local.read_bytes()
    assert published.sha256 == hashlib.sha256(b"not really a film").hexdigest()
    assert (published.bytes, published.content_type) == (17, "video/mp4")
    assert [path.name for path in target.parent.iterdir()] == ["anna.mp4"]


def test_file_sink_publishes_where_it_was_told(tmp_path):
    local = tmp_path / "work.mp4"
    local.write_bytes(b"x")
    assert FileSink(f"{tmp_path}/here/film.mp4").publish(local, "anna").uri == f"{tmp_path}/here/film.mp4"
    assert (tmp_path / "here" / "film.mp4").read_bytes() == b"x"


@pytest.mark.parametrize("sink", [Mp4Sink("memory://out"), FileSink("memory://out/clips/a.mp4")])
def test_object_stores(tmp_path, sink):
    from latentsync_ray import storage

    (tmp_path / "a").write_bytes(b"x")
    assert storage.read_bytes(sink.publish(tmp_path / "a", "a").uri) == b"x"
