"""What a file says of its own making, in XMP and Content Credentials (C2PA), and whether its signature holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentsync_ray.media.credentials import has_credentials
from latentsync_ray.media.signing import SigningFailed, read_credentials
from latentsync_ray.media.xmp import read_xmp

__all__ = ["provenance_of"]

_NO_PROBLEM = ("signingCredential.untrusted",)
"""That a certificate leads to none that is trusted is told by the state."""


def provenance_of(path: Path, *, anchors: str | None = None) -> dict[str, Any]:
    """``xmp`` (property -> text), ``credentials`` and ``problems``; of a file with credentials also what its manifest says.

    ``credentials`` is None for a file without, else ``Trusted`` (the certificate leads to one of the ``anchors``, in PEM),
    ``Valid`` (the signature holds) or ``Invalid``. Raises ConfigError where they need the extra ``c2pa``.
    """
    told: dict[str, Any] = {"xmp": read_xmp(path), "credentials": None, "problems": []}
    if not has_credentials(path):
        return told
    try:
        store = read_credentials(path, anchors=anchors)
    except SigningFailed as error:
        return {**told, "credentials": "Invalid", "problems": [str(error)]}
    if store is None:
        return told
    active = store["manifests"][store["active_manifest"]]
    signature, assertions = active.get("signature_info", {}), active.get("assertions", [])
    failures = [each for each in store.get("validation_status", []) if each["code"] not in _NO_PROBLEM]
    return {
        **told,
        "credentials": store["validation_state"],
        "problems": [each.get("explanation") or each["code"] for each in failures],
        "signed_by": signature.get("common_name"),
        "issuer": signature.get("issuer"),
        "signed_at": signature.get("time"),
        "actions": [_action(each) for one in assertions if _is(one, "c2pa.actions") for each in one["data"]["actions"]],
        "ingredients": [_ingredient(each) for each in active.get("ingredients", [])],
        "assertions": {one["label"]: one["data"] for one in assertions if not _is(one, "c2pa.actions", "c2pa.hash")},
    }


def _is(assertion: dict[str, Any], *labels: str) -> bool:
    return assertion["label"].startswith(labels)


def _action(action: dict[str, Any]) -> dict[str, str]:
    return {name: action[name] for name in ("action", "digitalSourceType", "description") if name in action}


def _ingredient(ingredient: dict[str, Any]) -> dict[str, Any]:
    kind, _, digest = ingredient.get("instance_id", "").partition(":")
    return {
        "title": ingredient.get("title"),
        "relationship": ingredient.get("relationship"),
        "sha256": digest if kind == "sha256" else None,
        "credentials": _state(ingredient) if "active_manifest" in ingredient else None,
    }


def _state(ingredient: dict[str, Any]) -> str:
    """Whether the credentials that an ingredient brought along held when the file was signed."""
    failures = ingredient.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return "Invalid" if any(each["code"] not in _NO_PROBLEM for each in failures) else "Valid"
