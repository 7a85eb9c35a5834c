"""Content Credentials (C2PA): sign an MP4 with a manifest, and read what the manifest of any file says.

Needs the extra ``c2pa``. Nothing is fetched from the network, neither manifests that a file only refers to nor the state of
certificates; a time authority is asked where the signer names one.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from latentsync_ray.errors import ConfigError
from latentsync_ray.extras import install_command
from latentsync_ray.media.credentials import container

__all__ = ["Identity", "Ingredient", "SigningFailed", "common_name", "read_credentials", "sign_file"]

_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_P1363 = {"es256": 32, "es384": 48, "es512": 66}
"""Bytes of each half of an ECDSA signature, as C2PA wants it."""


class SigningFailed(Exception):
    """The file could not be signed; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who signs."""

    certificates: bytes
    """PEM, the signer's first."""
    key: bytes | None = None
    """PEM."""
    sign: Callable[[bytes], bytes] | None = None
    """In place of ``key``."""
    algorithm: str = "es256"
    time_authority: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredient:
    """What a file was made of."""

    said: Mapping[str, Any]
    """C2PA's JSON form of an ingredient."""
    path: Path | None = None
    """The file, where it may carry credentials of its own: these are kept inside, if they can be read."""


def sign_file(
    source: Path,
    target: Path,
    identity: Identity,
    manifest: Mapping[str, Any],
    ingredients: Sequence[Ingredient] = (),
    *,
    media_type: str = "video/mp4",
) -> None:
    """Write ``source`` with a signed ``manifest`` (C2PA's JSON form) to ``target``. Raises SigningFailed."""
    c2pa, context = _library()
    signed = [each for each in ingredients if each.path and _is_readable(each.path)]
    plain = [each.said for each in ingredients if each not in signed]
    caught: list[Exception] = []
    try:
        builder = c2pa.Builder(json.dumps({**manifest, "format": media_type, "ingredients": plain}), context=context)
        for each in signed:
            assert each.path
            with each.path.open("rb") as file:
                builder.add_ingredient(json.dumps(each.said), container(each.path), file)
        with source.open("rb") as file, target.open("w+b") as out:
            builder.sign(_signer(identity, caught), media_type, file, out)
    except (c2pa.C2paError, ValueError, OSError) as error:
        reason = caught[0] if caught else error
        raise SigningFailed(_first_line(reason)) from reason


def read_credentials(path: Path, *, anchors: str | None = None) -> dict[str, Any] | None:
    """The manifest store of a file in C2PA's JSON form, with its ``validation_state``; None when it has none.

    The state is ``Trusted`` (the signer's certificate leads to one of the ``anchors``, in PEM), ``Valid`` (the signature holds,
    whoever made it) or ``Invalid``. Raises SigningFailed for what cannot be read.
    """
    c2pa, context = _library()
    if (media_type := container(path)) is None:
        return None
    try:
        if anchors is not None:
            context = c2pa.Context.from_dict({**_SETTINGS, "trust": {"trust_anchors": anchors}})
        with path.open("rb") as file:
            return json.loads(c2pa.Reader(media_type, file, context=context).json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__:
            return None
        raise SigningFailed(_first_line(error)) from error


def common_name(certificates: bytes) -> str:
    """Whose the first certificate is: its common name, or else its organisation. Raises SigningFailed."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        subject = x509.load_pem_x509_certificate(certificates).subject
    except ValueError as error:
        raise SigningFailed(f"there is no certificate in PEM: {error}") from error
    found = [*subject.get_attributes_for_oid(NameOID.COMMON_NAME), *subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return str(found[0].value) if found else subject.rfc4514_string()


@cache
def _library() -> tuple[Any, Any]:
    """``c2pa`` and its settings. Raises ConfigError when it is not installed."""
    try:
        c2pa = importlib.import_module("c2pa")
    except ImportError as error:
        raise ConfigError(f"Content Credentials need the extra c2pa ({error}): {install_command('c2pa')}") from error
    return c2pa, c2pa.Context.from_dict(_SETTINGS)


def _is_readable(path: Path) -> bool:
    try:
        return read_credentials(path) is not None
    except SigningFailed:
        return False


def _signer(identity: Identity, caught: list[Exception]) -> Any:
    """A new one each time, since one is for one thread. What a callback raises is added to ``caught``."""
    c2pa, _ = _library()
    kind = getattr(c2pa.C2paSigningAlg, identity.algorithm.upper())
    if identity.sign is None:
        assert identity.key
        url = identity.time_authority.encode() if identity.time_authority else None
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(kind, identity.certificates, identity.key, url))
    own, half = identity.sign, _P1363.get(identity.algorithm)

    def sign(data: bytes) -> bytes:
        try:
            signature = own(data)
            return _as_p1363(signature, half) if half and len(signature) != 2 * half else signature
        except Exception as error:  # noqa: BLE001 - whatever a key service raises; the library would swallow it
            caught.append(error)
            return b""

    return c2pa.Signer.from_callback(sign, kind, identity.certificates.decode(), identity.time_authority)


def _as_p1363(signature: bytes, half: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    return b"".join(number.to_bytes(half) for number in decode_dss_signature(signature))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
