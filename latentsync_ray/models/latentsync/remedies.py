"""What to do about a model that is not there, or not whole: commands and sentences. Knows names and places, touches no file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from latentsync_ray import redact
from latentsync_ray.models.hub import HUB, split_place
from latentsync_ray.models.latentsync.specs import MODELS, PUBLISHED, ModelSpec

__all__ = ["by_hand", "download_command", "incomplete_folder", "nothing_found", "published_bytes"]

_MODEL_NAMES = ("latentsync_unet.pt", "whisper/tiny.pt")
_VAE_NAMES = ("diffusion_pytorch_model.safetensors", "config.json")


def download_command(spec: ModelSpec) -> str:
    """The command that fetches whatever a model lacks."""
    return f"latentsync-ray models download {shlex.quote(spec.name)}"


def by_hand(spec: ModelSpec, folder: str, *, model: bool, vae: bool) -> list[str]:
    """Commands that bring the model, or its autoencoder, into ``folder``, also on another machine."""
    into = folder if spec.name in MODELS or not folder.startswith(HUB) else ""
    lines = [_fetch(spec.source, _MODEL_NAMES, into)] if model else []
    return lines + ([_fetch(spec.vae, _VAE_NAMES, f"{into}/vae" if into else "")] if vae else [])


def incomplete_folder(spec: ModelSpec, place: str, *, present: Sequence[str], missing: Sequence[str]) -> str:
    """Why a folder with only some of a model's files is not used, and the ways out."""
    shown = redact.shown(place)
    lines = [f"no weights of {redact.shown(spec.name)}: {shown} holds {', '.join(present)} but not {', '.join(missing)}"]
    own = [name for name in missing if not name.startswith("vae/")]
    vae = [name.removeprefix("vae/") for name in missing if name.startswith("vae/")]
    if spec.name in MODELS:
        lines.append(f"complete the folder: {download_command(spec)}")
        lines += ["or by hand:"] + ([_fetch(spec.source, own, place)] if own else [])
        lines += [_fetch(spec.vae, vae, f"{place}/vae")] if vae else []
        lines.append(f"or remove it, to have the model taken from {spec.source}")
    else:
        lines.append(
            f"put {', '.join(missing)} into {shown}" + ("; without vae/ the usual autoencoder is taken" if vae else "")
        )
    return "\n".join(lines)


def nothing_found(spec: ModelSpec, folder: str, *, model: bool, vae: bool, reasons: Sequence[str]) -> str:
    """That a model (or its autoencoder) is not there, why, and how it gets into ``folder``."""
    if model:
        head = f"no weights of {redact.shown(spec.name)} on this machine"
    else:
        head = (
            f"no weights of {redact.shown(spec.name)}: {redact.shown(folder)} has no vae/, and the usual autoencoder is not on "
            "this machine"
        )
    if not model or spec.source.startswith(HUB):
        ways = [f"with network: {download_command(spec)}", "by hand, or for a machine without network:"]
        ways += by_hand(spec, folder, model=model, vae=vae)
    else:
        ways = [f"put {', '.join(_MODEL_NAMES)} into {redact.shown(folder)}", *by_hand(spec, folder, model=False, vae=vae)]
    return "\n".join([head, *reasons, *ways])


def published_bytes(place: str, names: Sequence[str] | None = None) -> int:
    """Size of the files at a place, or of those of ``names``; 0 when it is not known."""
    files = PUBLISHED.get(place, {})
    return sum(file.bytes for name, file in files.items() if names is None or name in names)


def _fetch(place: str, names: Sequence[str], into: str) -> str:
    if not place.startswith(HUB):
        return f"put {', '.join(names)} into {redact.shown(into or place)}"
    repository, revision = split_place(place)
    version = f" --revision {revision}" if revision else ""
    return f"hf download {repository} {' '.join(names)}{version}" + (f" --local-dir {shlex.quote(into)}" if into else "")
