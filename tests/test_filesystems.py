"""Options of filesystems: which count, which are refused, who sees them, and logins that run out."""

from __future__ import annotations

import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from stores import TOKENS, gcs_login, tokens

from latentsync_ray import ConfigError, Job, Recipe, load_job, redact, retry, storage
from latentsync_ray.errors import InputNotFound, StorageUnavailable
from latentsync_ray.filesystems import configured, opened
from latentsync_ray.job_file import build_job
from latentsync_ray.pipeline import join_parts
from latentsync_ray.stages.rows import task
from latentsync_ray.stages.table import STAGES, Settings
from latentsync_ray.storage_options import guarded, revealed, secrets
from latentsync_ray.types import Pair, Part

if TYPE_CHECKING:
    from latentsync_ray.stages.join import Join

SECRET = "N0b0dyMaySeeTh1s"
OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "key": f"{SECRET}-1",
        "anon": False,
        "endpoint_url": f"http://me:{SECRET}-2@127.0.0.1:9",
        "client_kwargs": {"region_name": "eu-central-1", "aws_session_token": f"{SECRET}-3"},
    },
    "http": {"headers": {"Authorization": f"Bearer {SECRET}-4", "X": [f"{SECRET}-5"]}},
    "gs": {"token": {"private_key": f"{SECRET}-6"}, "project": "films"},
}


def job(**options: Any) -> Job:
    return Job(manifest="pairs.csv", output="out", storage_options=options)


# Secrets


def test_no_one_sees_a_secret_who_looks_at_a_job_or_at_settings() -> None:
    asked = job(**OPTIONS)
    settings = Settings(Recipe(), "out", storage_options=asked.storage_options)
    shown = [
        repr(asked),
        str(asked),
        str(asked.model_dump()),
        asked.model_dump_json(),
        repr(settings),
        str(asked.storage_options),
    ]
    assert SECRET not in "".join(shown)
    assert "'project': 'films'" in repr(asked), "the rest is of use"
    assert hash(settings) == hash(Settings(Recipe(), "out")), "stages are kept by it"
    assert pickle.loads(pickle.dumps(asked)) == asked
    assert revealed(asked.storage_options) == OPTIONS
    assert sorted(text[-1] for text in secrets(asked.storage_options) if not text.startswith("http")) == list("13456")


def test_objects_of_libraries_are_shown_by_nobody() -> None:
    class Login:
        def __repr__(self) -> str:
            return f"Login({SECRET})"

    login = Login()
    asked = job(http={"client_kwargs": {"auth": login}, "auth": login, "block_size": 0})
    assert SECRET not in repr(asked)
    assert SECRET not in asked.model_dump_json()
    assert revealed(asked.storage_options)["http"] == {"client_kwargs": {"auth": login}, "auth": login, "block_size": 0}


@pytest.mark.parametrize("value", [12345678, 0.12345678, [12345678], {"inner": 12345678}, date(2026, 11, 28)])
def test_a_secret_need_not_be_text(value: object) -> None:
    asked = job(sftp={"password": value, "port": 2222})
    text = str(value["inner"] if isinstance(value, dict) else value[0] if isinstance(value, list) else value)
    for shown in (repr(asked), str(asked.storage_options), asked.model_dump_json()):
        assert text not in shown
        assert repr(value) not in shown
        assert "2222" in shown
    assert revealed(asked.storage_options) == {"sftp": {"password": value, "port": 2222}}
    with configured({"memory": asked.storage_options["sftp"]}):
        assert redact.text(f"refused {text}") == "refused ***"


def test_messages_have_no_secret_once_options_count() -> None:
    with configured(job(**OPTIONS).storage_options):
        pass
    error = ConfigError(f"no login {SECRET}-1 at http://me:{SECRET}-2@127.0.0.1:9 with {SECRET}-4")
    assert str(error) == "no login *** at *** with ***"
    assert SECRET not in redact.text(f"{SECRET}-3 {SECRET}-5 {SECRET}-6")


@pytest.mark.parametrize(
    "tree",
    [
        {"storage_options": f"token: {SECRET}"},
        {"storage_options": {"gs": SECRET}},
        {"storage_options": {"gs": [{"token": SECRET}]}},
        {"storage_options": {"gs": {"token": SECRET}, "gcs": {"token": SECRET}}},
        {"storage_options": {"gs": {"token": SECRET}}, "limit": 0},
        {"storage_options": {"gs": {"token": SECRET}}, "output": "out", "cluster": {"address": "auto"}},
    ],
    ids=str,
)
def test_a_job_that_is_refused_shows_none(tree: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build_job({"manifest": "m", "output": "/out", **tree}, source="job.yaml")
    printed = "".join(traceback.format_exception(caught.value))
    assert SECRET not in printed, printed
    wrong = "limit" if "limit" in tree else "output" if "output" in tree else "storage_options"
    assert wrong in str(caught.value)


def test_options_may_be_overridden() -> None:
    tree = {"manifest": "m", "output": "/out", "storage_options": {"gs": {"token": SECRET, "project": "films"}}}
    asked = build_job(tree, "storage_options.gs.token=anon", "storage_options.s3.anon=true", source="job.yaml")
    assert revealed(asked.storage_options) == {"gs": {"token": "anon", "project": "films"}, "s3": {"anon": True}}


@pytest.mark.parametrize("wrong", ["storage_options.s3.secret", "storage_options.s3.secret=[", "=x"])
def test_an_override_that_is_refused_shows_none(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_job({"manifest": "m", "output": "/out"}, wrong.replace("[", f"[{SECRET}"), source="job.yaml")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_no_yaml_shows_none(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"manifest: m\noutput: o\nstorage_options: {{s3: {{secret: {SECRET}: x}}}}\n")
    with pytest.raises(ConfigError, match=r"is not valid YAML: .* in line 3") as caught:
        load_job(tmp_path / "job.yaml")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# Which count


def test_aliases_share_their_options() -> None:
    with configured(guarded({"gcs": {"project": "films", "token": "anon"}, "https": {"block_size": 7}})):
        assert opened("gs://b/k")[0].project == opened("gcs://b/k")[0].project == "films"
        assert opened("http://h/k")[0].block_size == opened("https://h/k")[0].block_size == 7
    assert opened("http://h/k")[0].block_size != 7, "afterwards all is as before"


def test_every_option_arrives() -> None:
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    pytest.importorskip("s3fs", reason="needs the extra s3")
    google = {"endpoint_url": "http://127.0.0.1:9", "requester_pays": True, "token": "anon", "project": "films"}
    amazon = {"endpoint_url": "http://127.0.0.1:9", "requester_pays": True, "anon": True, "profile": "studio"}
    with configured(guarded({"gs": google, "s3": amazon})):
        gs, s3 = opened("gs://b/k")[0], opened("s3a://b/k")[0]
        assert (gs._location, gs.requester_pays, gs.credentials.token) == ("http://127.0.0.1:9", True, "anon")
        assert (s3.endpoint_url, s3.req_kw, s3.anon) == ("http://127.0.0.1:9", {"RequestPayer": "requester"}, True)
        assert s3.kwargs == {"profile": "studio"}


def test_links_of_a_chain_have_their_own(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.txt", "content")
    storage.write_bytes("memory://a.zip", (tmp_path / "a.zip").read_bytes())
    with configured({"gs": {"project": "films"}, "memory": {"use_listings_cache": False}}):
        assert storage.read_bytes("zip://x.txt::memory://a.zip") == b"content"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"nosuch": {"a": 1}}, r"storage_options\.nosuch: fsspec knows no such protocol"),
        ({"gs": {"requester_pay": True}}, r"storage_options\.gs\.requester_pay: there is no such option; .*requester_pays"),
        ({"gs": {"finalize_on_close": True}}, r"storage_options\.gs\.finalize_on_close"),
        ({"s3": {"profil": "x"}}, r"storage_options\.s3\.profil: .*profile"),
        ({"s3": {"loop": "x"}}, r"storage_options\.s3\.loop"),
        ({"https": {"header": {}}}, r"storage_options\.https\.header: .*headers"),
        ({"file": {"auto_mkdir": True}}, r"storage_options\.file: there are no options for files of this machine"),
    ],
)
def test_options_that_nobody_would_heed(options: dict[str, dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigError, match=told), configured(options):
        pass


def test_options_that_contradict_each_other() -> None:
    told = pytest.raises(ConfigError, match=r"gs://b/k: access must .*storage_options\.gs")
    with configured(guarded({"gs": {"access": "none"}})), told:
        storage.read_bytes("gs://b/k")


@pytest.mark.parametrize("asked", ["", "true"])
def test_google_is_not_asked_which_kind_of_bucket_it_has_unless_wanted(asked: str) -> None:
    """In a process of its own: gcsfs reads the variable once, when it is imported."""
    script = (
        "from latentsync_ray.filesystems import configured, opened\n"
        "with configured({'gs': {'token': 'anon', 'endpoint_url': 'http://127.0.0.1:9'}}):\n"
        "    print(type(opened('gs://b/k')[0]).__module__)"
    )
    environment = {**os.environ, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": asked}
    made = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == ("gcsfs.extended_gcsfs" if asked else "gcsfs.core")


def test_workers_use_the_options_of_their_job() -> None:
    failed = Pair.of_failed(Pair(clip_id="a", video="a.mp4", audio="a.wav"), InputNotFound("none"))
    for number, work in enumerate(("stage", "join")):
        options = guarded({"memory": {"number": number}})
        if work == "stage":
            asked = Settings(Recipe(model="toy:TOY"), "out", storage_options=options)
            assert len(list(task(STAGES[:1], asked)(failed.to_row()))) == 1
        else:
            join_parts(cast("Join", None), [Part.of_failed(failed)], options)
        assert opened("memory://a")[0].storage_options == {"number": number}


# Logins that run out


class _Refusing(http.server.BaseHTTPRequestHandler):
    """An object for who shows the login ``good``; each refusal is counted."""

    good, refused, status, content, kind = "", 0, 0, b"", ""

    def do_GET(self) -> None:
        if self.good not in self.headers.get("Authorization", ""):
            type(self).refused += 1
            self.answer(self.status, self.content, self.kind)
        else:
            self.answer(200, b"content", "application/octet-stream")

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def refusing(good: str, status: int, content: bytes, kind: str) -> Iterator[tuple[type[_Refusing], str]]:
    handler = type("Handler", (_Refusing,), {"good": good, "status": status, "content": content, "kind": kind})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.mark.parametrize("ask", [storage.read_bytes, lambda uri: storage.fetch(uri).read_bytes()], ids=["get", "head first"])
def test_a_session_of_s3_that_is_over(ask: Callable[[str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps the user's file of credentials up to date is waited for."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def login(key: str) -> None:
        file.write_text(f"[studio]\naws_access_key_id = {key}\naws_secret_access_key = x\naws_session_token = y\n")

    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            login("AKIARENEWED")

    monkeypatch.setattr(retry._RETRYING, "sleep", wait)
    login("AKIAOUTDATED")
    with refusing("AKIARENEWED", 400, EXPIRED, "application/xml") as (handler, address):
        options = {"endpoint_url": address, "profile": "studio", "client_kwargs": {"region_name": "us-east-1"}}
        with configured({"s3": options}):
            assert ask("s3://films/a") == b"content"
    assert handler.refused >= 2
    assert len(waits) == 2


def test_a_session_that_nobody_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    monkeypatch.setattr(retry._RETRYING, "sleep", lambda seconds: None)
    monkeypatch.setattr(retry, "_PATIENCE", 0.0)
    with refusing("nobody", 400, EXPIRED, "application/xml") as (_, address):
        options = {"endpoint_url": address, "key": "AKIAOUTDATED", "secret": "x", "client_kwargs": {"region_name": "us-east-1"}}
        with (
            configured(guarded({"s3": options})),
            pytest.raises(StorageUnavailable, match=r"failed 5 times.*; its login is outdated or not valid: renew it"),
        ):
            storage.read_bytes("s3://films/a")


def test_a_token_of_google_that_is_refused_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("gcsfs.core", reason="needs the extra gcs")

    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=at_once))
    monkeypatch.setattr(retry._RETRYING, "sleep", lambda seconds: None)
    content = json.dumps({"error": {"code": 401, "message": "Invalid Credentials"}}).encode()
    with tokens() as token_uri, refusing(TOKENS[1], 401, content, "application/json") as (handler, address):
        options = {"endpoint_url": address, "project": "films", "token": gcs_login(token_uri)}
        with configured(guarded({"gs": options})):
            assert storage.read_bytes("gs://films/a") == b"content"
    assert handler.refused == core.GCSFileSystem.retries, "all of gcsfs's own tries with the first one"


def test_what_nobody_may_read_is_told_in_one_line(tmp_path: Path) -> None:
    """gcsfs logs tracebacks."""
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    content = json.dumps({"error": {"code": 401, "message": "Anonymous caller does not have access"}}).encode()
    with refusing("nobody", 401, content, "application/json") as (_, address):
        options = {"gs": {"endpoint_url": address, "token": "anon"}}
        job_file = {"manifest": "gs://films/m.csv", "output": str(tmp_path), "storage_options": options}
        (tmp_path / "job.yaml").write_text(json.dumps(job_file))
        command = [sys.executable, "-m", "latentsync_ray", "run", str(tmp_path / "job.yaml")]
        said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 2
    told = "gs://films/m.csv does not exist or may not be read: Anonymous caller does not have access, 401"
    assert said.stderr == f"error: cannot read the manifest: {told}\n"


def test_credentials_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with refusing("AKIAENVIRONMENT", 403, b"", "application/xml") as (handler, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        assert storage.read_bytes("s3://films/a") == b"content"
    assert handler.refused == 0


def test_a_profile_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs the extra s3")
    began = time.monotonic()
    with configured({"s3": {"profile": "nobodys"}}), pytest.raises(InputNotFound, match="nobodys"):
        storage.read_bytes("s3://films/a")
    assert time.monotonic() - began < 30
    assert os.environ.get("AWS_PROFILE") is None
