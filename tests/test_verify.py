"""``verify`` as it is used: what a file says, in words, as JSON, and by the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from certificates import Chain, make_chain
from typer.testing import CliRunner

from latentsync_ray import assets
from latentsync_ray.cli import app
from latentsync_ray.media.signing import Identity, Ingredient, sign_file
from latentsync_ray.media.xmp import SOURCE_TYPE, embed_xmp, xmp_packet


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    path = tmp_path / "marked.mp4"
    path.write_bytes(assets.demo_video().read_bytes())
    embed_xmp(path, xmp_packet({"xmp:CreatorTool": "tool [1]", "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE}))
    return path


@pytest.fixture
def signed(marked: Path, chain: Chain, tmp_path: Path) -> Path:
    identity = Identity(certificates=chain.certificates.read_bytes(), key=chain.key.read_bytes())
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["video"]}},
        {"action": "c2pa.edited", "digitalSourceType": SOURCE_TYPE, "description": "lips"},
    ]
    manifest = {
        "claim_generator_info": [{"name": "test", "version": "1"}],
        "title": "a",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    said = {"title": "video", "relationship": "parentOf", "label": "video", "instance_id": "sha256:ab"}
    sign_file(marked, tmp_path / "signed.mp4", identity, manifest, [Ingredient(said=said)])
    return tmp_path / "signed.mp4"


def verified(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_file_that_says_nothing() -> None:
    code, told = verified(assets.demo_video())
    assert (code, told.splitlines()[1]) == (1, "says nothing of its own making: no XMP and no Content Credentials")


def test_a_file_that_is_not_signed(marked: Path) -> None:
    code, told = verified(marked)
    assert code == 0
    assert "tool [1]" in told
    assert "not signed: anyone could have written this" in told
    code, told = verified(marked, "--json")
    assert (code, json.loads(told)["xmp"]["Iptc4xmpExt:DigitalSourceType"]) == (0, SOURCE_TYPE)


def test_a_signed_file(signed: Path, chain: Chain) -> None:
    code, told = verified(signed)
    assert code == 0
    for each in ("the signature holds; who signed", "signed by Test Studio (Test House), at a time that nobody vouches for"):
        assert each in told
    assert f"c2pa.edited {SOURCE_TYPE} lips" in told
    assert "made of video, SHA-256 ab" in told
    code, told = verified(signed, "--trust", chain.authority)
    assert (code, "leads to a certificate that you trust" in told) == (0, True)
    code, told = verified(signed, "--trust", chain.authority, "--json")
    assert (code, json.loads(told)["credentials"], json.loads(told)["signed_by"]) == (0, "Trusted", "Test Studio")


def test_a_file_that_was_changed(signed: Path) -> None:
    content = bytearray(signed.read_bytes())
    content[-5000] ^= 1
    signed.write_bytes(content)
    code, told = verified(signed)
    assert (code, "the signature does not hold" in told, "mismatch" in told) == (1, True, True)


def test_what_cannot_be_read(tmp_path: Path, signed: Path) -> None:
    for arguments, reason in (
        ([tmp_path / "none.mp4"], "none.mp4 does not exist"),
        ([signed, "--trust", tmp_path / "none.pem"], "none.pem cannot be read"),
        ([signed, "--trust", assets.demo_video()], "demo.mp4 cannot be read"),
    ):
        result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
        assert reason in str(result.exception)
