from __future__ import annotations

import time

import pytest

from latentsync_ray import errors, redact
from latentsync_ray.errors import ConfigError, InputNotFound

SIGNED = {
    "aws-4": "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=SECRET1%2F20260101%2Fus-east-1&X-Amz-Date=20260101T000000Z"
    "&X-Amz-Expires=3600&X-Amz-Security-Token=SECRET2%2F%2F&X-Amz-SignedHeaders=host&X-Amz-Signature=SECRET3",
    "aws-2": "?AWSAccessKeyId=SECRET1&Expires=1767225600&Signature=SECRET2%3D",
    "gcs": "?X-Goog-Algorithm=GOOG4&X-Goog-Credential=SECRET1%40p.iam&X-Goog-Expires=9&X-Goog-Signature=SECRET2",
    "gcs-2": "?GoogleAccessId=SECRET1%40p.iam&Expires=1767225600&Signature=SECRET2",
    "azure": "?sv=2022-11-02&st=2026-01-01&se=2026-02-01&sr=b&sp=r&skoid=SECRET1&sig=SECRET2%3D",
    "cloudfront": "?Expires=1767225600&Policy=SECRET1__&Signature=SECRET2~&Key-Pair-Id=SECRET3",
    "token": "?token=SECRET1",
    "key": "?key=SECRET1",
    "login-as-parameters": "?user=me&password=SECRET1&auth=SECRET2",
    "capitals": "?x-amz-signature=SECRET1&TOKEN=SECRET2",
    "percent-encoded-name": "?X%2DAmz%2DSignature=SECRET1",
    "no-name": "?SECRET1",
    "semicolons": "?X-Amz-Signature=SECRET1;X-Amz-Credential=SECRET2",
    "fragment": "#access_token=SECRET1",
    "both": "?sig=SECRET1#SECRET2",
    "inside-a-harmless-one": "?id=https://me:SECRET1@h.example/",
}
each_kind = pytest.mark.parametrize("query", [pytest.param(query, id=name) for name, query in SIGNED.items()])


@each_kind
def test_signatures_go_and_the_object_stays(query):
    uri = f"https://h.example:8443/clips/anna%20b.mp4{query}"
    shown = redact.shown(uri)
    assert "SECRET" not in shown
    assert shown.startswith("https://h.example:8443/clips/anna%20b.mp4")
    assert shown == redact.shown(shown) == redact.text(shown)
    assert not redact.is_whole(shown)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://b.example/a.mp4?versionId=3/L4kqt.x_-1&X-Amz-Signature=SECRET", "https://b.example/a.mp4?versionId=3/L4kqt.x_-1&***"),
        ("https://me:SECRET@h.example/a.mp4", "https://***@h.example/a.mp4"),
        ("https://SECRET@h.example/a.mp4", "https://***@h.example/a.mp4"),
        ("https://me:SEC/RET@h.example/a.mp4", "https://***@h.example/a.mp4"),
        ("https://me:SEC#RET@h.example/a.mp4", "https://***@h.example/a.mp4"),
        ("https://me:SEC@RET@h.example/a.mp4", "https://***@h.example/a.mp4"),
        ("https://me:SEC", "https://***"),
        ("sftp://me:SECRET@h.example:22/a.mp4", "sftp://***@h.example:22/a.mp4"),
        ("s3://KEY:SECRET@bucket/take#3.mp4", "s3://***@bucket/take#3.mp4"),
        ("abfs://me:SECRET@account/a.mp4", "abfs://***@account/a.mp4"),
        ("https://h.example/a;jsessionid=SECRET/b.mp4", "https://h.example/a;***/b.mp4"),
        ("https://proxy.example/https://me:SECRET@h.example/a", "https://proxy.example/https://***@h.example/a"),
        ("simplecache::https://me:SECRET@h.example/a", "simplecache::https://***@h.example/a"),
        ("zip://a.mp4::https://h.example/b.zip?sig=SECRET", "zip://a.mp4::https://h.example/b.zip?***"),
        ("https://h.example/my clip.mp4?sig=SECRET", "https://h.example/my clip.mp4?***"),
        ("data:audio/wav;base64,SECRETSECRET", "data:audio/wav;base64,... (34 characters)"),
        ("data:SECRETSECRET", "data:,... (17 characters)"),
    ],
)  # fmt: skip
def test_what_is_left_of_an_address(uri, shown):
    assert redact.shown(uri) == shown
    assert redact.shown(shown) == shown
    assert not redact.is_whole(shown)


@pytest.mark.parametrize(
    "uri",
    [
        "/data/a?token=x#y&b@c.mp4",
        "file:///data/a?token=x#y.mp4",
        "https://h.example/a.mp4",
        "https://[::1]:8080/a.mp4",
        "https://h.example/get?id=17&file=a.mp4&format=mp4",
        "https://h.example/@anna/a.mp4?generation=12",
        "s3://bucket/take#3? no.mp4",
        "gs://bucket/a.mp4#1234567890",
        "abfs://container@account.dfs.core.windows.net/a.mp4",
        "hf://org/model@main/unet.pt",
        "memory://a/b.mp4",
        "clip.mp4",
        "",
    ],
)
def test_harmless_addresses_stay_as_they_are(uri):
    assert redact.shown(uri) == redact.identity(uri) == uri
    assert redact.is_whole(uri)


def test_a_text_of_megabytes_that_poses_as_an_address_is_cut():
    shown = redact.shown("https://h.example/" + "x" * 1_000_000)
    assert len(shown) < 5000
    assert not redact.is_whole(shown)


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ("403, message='Forbidden', url='https://h.example/a?sig=SECRET'", "403, message='Forbidden', url='https://h.example/a?***'"),
        ("url=URL('https://h.example/it's.mp4?sig=SECRET')", "url=URL('https://h.example/it's.mp4?***')"),
        ("endpoint URL: \"https://b.example/a?X-Amz-Signature=SECRET\"", 'endpoint URL: "https://b.example/a?***"'),
        ("failed with url: /a.mp4?b=SECRET&c=SECRET (Caused by X)", "failed with url: /a.mp4?*** (Caused by X)"),
        ("one,https://h.example/a.mp4,https://me:SECRET@g.example/b,x", "one,https://h.example/a.mp4,https://***@g.example/b,x"),
        ("<URL>https://h.example/a?sig=SECRET</URL>", "<URL>https://h.example/a?***</URL>"),
        ("see https://h.example/a?id=3. Then (https://me:SECRET@h.example/b).", "see https://h.example/a?id=3. Then (https://***@h.example/b)."),
        ("X-Amz-Security-Token=SECRET is expired", "X-Amz-Security-Token=*** is expired"),
        ("line one\nhttps://h.example/a?sig=SECRET\nline three", "line one\nhttps://h.example/a?***\nline three"),
        ("cannot read data:audio/wav;base64,SECRETSECRET", "cannot read data:audio/wav;base64,... (34 characters)"),
        ("is this wanted? a=b", "is this wanted? a=b"),
        ("set recipe.steps=10, key=value: a note", "set recipe.steps=10, key=value: a note"),
    ],
)  # fmt: skip
def test_addresses_are_found_in_messages(message, clean):
    assert redact.text(message) == clean
    assert redact.text(clean) == clean


@pytest.mark.parametrize(
    "message",
    [
        "Port could not be cast to integer value as 'pass word'",
        "netloc 'me:pass word@h.example' contains invalid characters",
        "no clip at https://me:pass word@h.example/a b.mp4?name=it's%20SECRETx",
        "the value it's SECRETx is refused",
    ],
)
def test_a_message_about_a_known_address_may_quote_pieces_of_it(message):
    uri = "https://me:pass word@h.example/a b.mp4?name=it's%20SECRETx"
    clean = redact.text(message, uri)
    assert "SECRET" not in clean
    assert "pass word" not in clean


def test_errors_of_this_package_never_hold_a_secret():
    told = "https://h.example/a?sig=SECRET"
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type):
            assert str(kind(f"{told} is wrong")) == "https://h.example/a?*** is wrong"
    assert InputNotFound().args == ()
    assert ConfigError("a", 3).args == ("a", 3)


def test_tracebacks_with_causes_and_notes():
    try:
        try:
            raise OSError("cannot open https://me:SECRET@h.example/a")
        except OSError as cause:
            raise ValueError("https://h.example/b?sig=SECRET") from cause
    except ValueError as error:
        error.add_note("while at https://h.example/c?sig=SECRET")
        trace = redact.traceback_of(error)
    assert "SECRET" not in trace
    assert "OSError: cannot open https://***@h.example/a\n" in trace
    assert trace.endswith("ValueError: https://h.example/b?***\nwhile at https://h.example/c?***\n")
    assert "test_redact.py" in trace


def test_a_cause_that_quotes_a_secret_is_no_cause_to_be_printed():
    uri = "https://h.example/a?sig=SECRET"
    assert redact.presentable(OSError(f"cannot open {uri}"), uri) is None
    harmless = OSError("timed out")
    assert redact.presentable(harmless, uri) is harmless


@pytest.mark.parametrize("kind", sorted(SIGNED.keys() - {"no-name", "inside-a-harmless-one"}))
def test_signing_again_keeps_the_identity(kind):
    query = SIGNED[kind]
    again = query.replace("SECRET", "OTHER").replace("2026", "2027").replace("1767", "1768")
    first, second = (redact.identity(f"https://h.example/a.mp4{each}") for each in (query, again))
    assert first == second
    assert redact.identity(f"https://h.example/b.mp4{query}") != first


@pytest.mark.parametrize("query", ["?page=1", "?name=anna&take=2", "?se=3&st=4", "?design=7"])
def test_parameters_that_may_say_which_object_it_is_belong_to_the_identity(query):
    uri = f"https://h.example/get{query}"
    assert redact.identity(uri) == uri


def test_the_identity_of_inline_content_is_the_content():
    assert redact.identity("data:,one") != redact.identity("data:,two")


def test_long_texts_take_no_long_time():
    began = time.process_time()
    redact.text("A" * 500_000 + "://" + "b" * 500_000)
    redact.text("data:" + "A" * 99 + "," + "A" * 1_000_000)
    redact.shown("https://h/" + "a" * 500_000 + "?" + "&".join(["a=b"] * 100_000))
    assert time.process_time() - began < 10
