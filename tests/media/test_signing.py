"""Content Credentials: signed, read back, and found out when a byte is changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from certificates import Chain, make_chain
from time_authority import time_authority

from latentsync_ray import assets
from latentsync_ray.media.credentials import has_credentials
from latentsync_ray.media.provenance import provenance_of
from latentsync_ray.media.signing import Identity, Ingredient, SigningFailed, common_name, read_credentials, sign_file

OPENED = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["video"]}}
MANIFEST: dict[str, Any] = {
    "claim_generator_info": [{"name": "test", "version": "1"}],
    "title": "a.mp4",
    "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [OPENED]}}],
}
CLIP = assets.demo_video()


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def identity(chain: Chain) -> Identity:
    return Identity(certificates=chain.certificates.read_bytes(), key=chain.key.read_bytes())


def video(path: Path | None = None) -> list[Ingredient]:
    said = {"title": "source", "relationship": "parentOf", "label": "video", "instance_id": "sha256:ab"}
    return [Ingredient(said=said, path=path)]


def test_a_signature_is_read_back_and_leads_to_whom_one_trusts(identity: Identity, chain: Chain, tmp_path: Path) -> None:
    signed = tmp_path / "signed.mp4"
    sign_file(CLIP, signed, identity, MANIFEST, video())
    assert has_credentials(signed)
    told = provenance_of(signed)
    assert (told["credentials"], told["problems"]) == ("Valid", [])
    assert (told["signed_by"], told["issuer"], told["signed_at"]) == ("Test Studio", "Test House", None)
    assert told["ingredients"] == [{"title": "source", "relationship": "parentOf", "sha256": "ab", "credentials": None}]
    assert [each["action"] for each in told["actions"]] == ["c2pa.opened"]
    assert provenance_of(signed, anchors=chain.authority.read_text())["credentials"] == "Trusted"
    other = make_chain(tmp_path / "other").authority.read_text()
    assert provenance_of(signed, anchors=other)["credentials"] == "Valid"
    assert common_name(identity.certificates) == "Test Studio"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_an_altered_byte_is_found(place: float, identity: Identity, tmp_path: Path) -> None:
    signed = tmp_path / "signed.mp4"
    sign_file(CLIP, signed, identity, MANIFEST, video())
    content = bytearray(signed.read_bytes())
    begins = content.index(b"mdat")
    content[begins + 8 + int(place * (len(content) - begins - 9))] ^= 1
    signed.write_bytes(content)
    told = provenance_of(signed)
    assert told["credentials"] == "Invalid"
    assert any("mismatch" in each for each in told["problems"])


def test_credentials_of_a_source_are_kept_inside_and_unreadable_ones_left_out(identity: Identity, tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.mp4" for name in "abc")
    sign_file(CLIP, first, identity, MANIFEST, video())
    sign_file(CLIP, second, identity, MANIFEST, video(first))
    told = read_credentials(second)
    assert told is not None
    assert (told["validation_state"], len(told["manifests"])) == ("Valid", 2)
    assert provenance_of(second)["ingredients"][0]["credentials"] == "Valid"
    content = bytearray(first.read_bytes())
    content[-5000] ^= 1
    (tmp_path / "tampered.mp4").write_bytes(content)
    sign_file(CLIP, third, identity, MANIFEST, video(tmp_path / "tampered.mp4"))
    told = provenance_of(third)
    assert (told["credentials"], told["ingredients"][0]["credentials"]) == ("Valid", "Invalid")
    content = first.read_bytes()
    manifests = content.index(bytes.fromhex("D8FEC3D61B0E483C92975828877EC481"))
    first.write_bytes(content[: manifests + 40] + b"\0" * 200 + content[manifests + 240 :])
    assert has_credentials(first)
    sign_file(CLIP, third, identity, MANIFEST, video(first))
    assert provenance_of(third)["ingredients"] == [
        {"title": "source", "relationship": "parentOf", "sha256": "ab", "credentials": None}
    ]
    assert provenance_of(first)["credentials"] == "Invalid"


def test_many_sign_at_once(identity: Identity, tmp_path: Path) -> None:
    def sign(number: int) -> str:
        sign_file(CLIP, tmp_path / f"{number}.mp4", identity, MANIFEST, video())
        return provenance_of(tmp_path / f"{number}.mp4")["credentials"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(sign, range(24))) == {"Valid"}


def test_a_callback_signs_in_either_form(identity: Identity, chain: Chain, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    def flat(data: bytes) -> bytes:
        return b"".join(number.to_bytes(32) for number in decode_dss_signature(chain.der(data)))

    for sign in (chain.der, flat):
        own = Identity(certificates=identity.certificates, sign=sign)
        sign_file(CLIP, tmp_path / "a.mp4", own, MANIFEST, video())
        assert provenance_of(tmp_path / "a.mp4")["credentials"] == "Valid"


def _down(data: bytes) -> bytes:
    raise ConnectionError("the key service is down")


@pytest.mark.parametrize(
    ("sign", "reason"),
    [(_down, "the key service is down"), (lambda data: b"abc", "parsing asn1"), (lambda data: None, "NoneType")],
)
def test_a_callback_that_fails_is_told(sign: Callable[..., Any], reason: str, identity: Identity, tmp_path: Path) -> None:
    own = Identity(certificates=identity.certificates, sign=sign)
    with pytest.raises(SigningFailed, match=reason):
        sign_file(CLIP, tmp_path / "a.mp4", own, MANIFEST, video())


def test_what_cannot_sign(identity: Identity, tmp_path: Path) -> None:
    wrong = {
        "certificate": replace(identity, certificates=b"none"),
        "PEM": replace(identity, key=b"none"),
        "algorithm": replace(identity, algorithm="ps256"),
        "127.0.0.1:9": replace(identity, time_authority="http://127.0.0.1:9/"),
    }
    for reason, one in wrong.items():
        with pytest.raises(SigningFailed, match=reason):
            sign_file(CLIP, tmp_path / "a.mp4", one, MANIFEST, video())
    with pytest.raises(SigningFailed, match="no certificate"):
        common_name(b"none")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
def test_a_time_authority_vouches_for_the_time(identity: Identity, chain: Chain, tmp_path: Path) -> None:
    with time_authority(tmp_path / "clock") as (url, clock):
        sign_file(CLIP, tmp_path / "a.mp4", replace(identity, time_authority=url), MANIFEST, video())
    told = provenance_of(tmp_path / "a.mp4", anchors=chain.authority.read_text() + clock.authority.read_text())
    assert (told["credentials"], told["problems"]) == ("Trusted", [])
    assert abs(datetime.fromisoformat(told["signed_at"]) - datetime.now(UTC)) < timedelta(minutes=5)


def test_files_without_credentials(tmp_path: Path) -> None:
    for path in (CLIP, assets.demo_audio(), assets.__file__):
        assert read_credentials(Path(str(path))) is None
    assert provenance_of(CLIP)["credentials"] is None


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['c2pa'] = None; from pathlib import Path; from latentsync_ray.media.signing import *\n"
        "try: read_credentials(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__, error)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(CLIP)], capture_output=True, text=True, check=True).stdout
    assert told.startswith("ConfigError Content Credentials need the extra c2pa")
    assert "[c2pa]" in told
