"""Settings, tariff and the commands around the server that end before it starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from filelock import FileLock
from serve_harness import make_settings

from latentsync_ray.cli import main
from latentsync_ray.errors import ConfigError
from latentsync_ray.serve.deploy import build
from latentsync_ray.serve.keys import Keys
from latentsync_ray.serve.server import Server
from latentsync_ray.serve.settings import Tariff, hash_key, load_settings
from latentsync_ray.serve.tables import connect

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(("seconds", "dollars"), [(0, 0.2), (1, 0.2), (40, 0.2), (40.04, 0.2002), (61, 0.305), (3600, 18.0)])
def test_the_pages_price(seconds: float, dollars: float) -> None:
    assert Tariff().cost(seconds) == pytest.approx(dollars)


def test_another_tariff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("tariff: {minimum: 1, included_seconds: 10, per_second: 0.5}\n")
    main_ends(["price", "61"], 0)
    main_ends(["price", "61", "--config", str(path)], 0)
    assert capsys.readouterr().out.split() == ["$0.305", "$30.5"]


def main_ends(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def test_the_shipped_settings() -> None:
    settings = load_settings(ROOT / "configs" / "serve.yaml")
    assert settings.recipe.model == "latentsync-1.6"
    assert settings.tariff == Tariff()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("folde: x", "folde"),
        ("recipe: {stepz: 3}", "recipe.stepz"),
        ("network: {allow: [nonsense]}", "network.allow"),
        ("keys: [{name: a b, sha256: x}]", "keys.0.name"),
        ("replicas: 3", "replicas"),
        ("result_seconds: 60", "result_seconds"),
        ("- a list", "must hold a mapping"),
        ("{", "not valid YAML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_settings(path)


def test_a_remote_folder_needs_a_database() -> None:
    with pytest.raises(ConfigError, match="name a database"):
        _ = load_settings(folder="gs://bucket/dubbing").database_url


def test_what_keeps_the_server_from_starting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "data")

    def told(*arguments: str) -> str:
        main_ends(["serve", "--folder", folder, *arguments], 2)
        return " ".join(capsys.readouterr().err.split())

    assert "latentsync-9" in told("--model", "latentsync-9")
    assert "nothing-here" in told("--model", str(tmp_path / "nothing-here"))
    assert "PEM" in told("--model", "nano", "--tls", "nothing.pem", "nothing.pem")
    assert "has its own" in told("--model", "nano", "--address", "auto", "--metrics-port", "9000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another with --port" in told("--model", "nano", "--port", str(taken.getsockname()[1]))
    Path(folder).mkdir(exist_ok=True)
    with FileLock(Path(folder) / "server.lock"):
        assert "another server uses" in told("--model", "nano", "--port", str(free_port()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_keys_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "data")
    main_ends(["serve-key", "studio", "--folder", folder], 0)
    first = capsys.readouterr().out.strip()
    main_ends(["serve-key", "studio", "--folder", folder], 0)
    second = capsys.readouterr().out.strip()
    keys = Server.of(load_settings(folder=folder)).keys
    assert keys.caller(f"Key {first}") is None
    caller = keys.caller(f"Key {second}")
    assert caller is not None
    assert caller.name == "studio"
    assert second not in "".join(str(path.read_bytes()) for path in Path(folder).iterdir()), "the secret is kept nowhere"
    main_ends(["serve-key", "no spaces please", "--folder", folder], 2)
    main_ends(["serve-key", "--remove", "studio", "--folder", folder], 0)
    assert Server.of(load_settings(folder=folder)).keys.caller(f"Key {second}") is None
    main_ends(["serve-key", "--remove", "studio", "--folder", folder], 2)
    main_ends(["serve-key", "--remove", "--print-only", "studio", "--folder", folder], 2)
    assert "knows no key 'studio'" in " ".join(capsys.readouterr().err.split())


def test_keys_of_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "data")
    main_ends(["serve-key", "--print-only", "studio", "--folder", folder], 0)
    secret = capsys.readouterr().out.strip()
    assert not Path(folder).exists()
    settings = tmp_path / "serve.yaml"
    settings.write_text(f"folder: {folder}\nkeys: [{{name: studio, sha256: {hash_key(secret)}}}]")
    assert Server.of(load_settings(settings)).keys.caller(f"Key {secret}")
    main_ends(["serve-key", "studio", "--config", str(settings)], 2)
    assert "change it there" in " ".join(capsys.readouterr().err.split())


def test_a_password_is_not_told() -> None:
    for url in (
        "nonsense://me:secret@db/x",
        "postgresql+nonsense://me:secret@db/x",
        "postgresql+psycopg://me:secret@127.0.0.1:9/x",
    ):
        with pytest.raises(ConfigError) as told:
            connect(url)
        assert "secret" not in str(told.value)


def test_arguments_that_a_build_does_not_take() -> None:
    with pytest.raises(ConfigError, match=r"model: takes config, folder and database"):
        build({"model": "nano"})


@pytest.mark.parametrize(
    "header", [None, "", "Key", "Key ", "Basic YTpi", "a-secret-for-tests", "Key other.1.x", "Bearer tester.9999999999.00"]
)
def test_who_is_nobody(tmp_path: Path, header: str | None) -> None:
    settings = make_settings(tmp_path / "data")
    keys: Keys = Server.of(settings).keys
    assert keys.caller(header) is None
    assert keys.caller("key a-secret-for-tests") is not None


def test_upload_tokens_are_for_uploads(tmp_path: Path) -> None:
    keys = Server.of(make_settings(tmp_path / "data")).keys
    key = keys.caller("Key a-secret-for-tests")
    assert key is not None
    token, _ = keys.token(key)
    assert keys.caller(f"Bearer {token}") is None
    assert keys.caller(f"Bearer {token}", uploading=True) == key
    for forged in ("tester.\u00b2.x", f"tester.{'9' * 5000}.x", token[:-1] + "\u00e9"):
        assert keys.caller(f"Bearer {forged}", uploading=True) is None
