"""Weights from files into modules, strictly: every key is accounted for, or the load fails and names it.

Knows file formats (PyTorch, safetensors) and the official UNet's key names. Peak memory is the module itself plus one tensor:
files are mapped, modules are built without storage.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from latentsync_ray.errors import CheckpointMismatch
from latentsync_ray.models.latentsync.options import UNetConfig
from latentsync_ray.models.latentsync.unet import LatentSyncUNet, sinusoid

__all__ = ["fill", "load_unet", "official_name", "read_checkpoint"]

_Module = TypeVar("_Module", bound=nn.Module)

_LISTED = 10
"""Keys named in an error before the rest is only counted."""

_POSITIONS = ".pos_encoder.pe"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a ``.safetensors`` or PyTorch file, tensors mapped rather than read. Runs no code from the file.

    Raises CheckpointMismatch when the file is damaged or something else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        # Only the zip format (the default since PyTorch 1.6) can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointMismatch(f"{path} is no readable checkpoint (interrupted download?): {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointMismatch(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def load_unet(path: Path, options: UNetConfig, *, device: torch.device, dtype: torch.dtype) -> LatentSyncUNet:
    """The denoising network with the weights of an official checkpoint: ``{"global_step", "state_dict"}`` or bare tensors.

    Raises CheckpointMismatch unless the file holds exactly what ``options`` builds, each under one name. Position tables, which
    are made anew, may be left out, all of them; those that are there have to be the sinusoid.
    """
    content = read_checkpoint(path)
    weights = _of_one_name(content.get("state_dict", content), path)
    with torch.device("meta"):
        unet = LatentSyncUNet(options)
    tables = {
        name.replace(".to_q.weight", _POSITIONS)
        for name in map(official_name, unet.state_dict())
        if name in weights and ".motion_modules." in name and name.endswith(".to_q.weight")
    }
    if there := tables & weights.keys():
        if missing := sorted(tables - there):
            raise CheckpointMismatch(f"{path} has some position tables, and not {_some(missing)}")
        for name in sorted(there):
            _check_positions(name, weights.pop(name), options, path)
    try:
        return fill(unet, weights, path=path, device=device, dtype=dtype, name_in_file=official_name)
    except CheckpointMismatch as mismatch:
        seen = _seen_in(weights, options)
        if not seen:
            raise
        differences = ", ".join(f"{name}={value!r} instead of {getattr(options, name)!r}" for name, value in seen.items())
        raise CheckpointMismatch(f"{mismatch}. A UNetConfig for this file has {differences}") from mismatch


def fill(
    module: _Module,
    weights: Mapping[str, Tensor],
    *,
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    name_in_file: Callable[[str], str] = str,
) -> _Module:
    """Give ``module`` (built on the meta device) the ``weights``, converted to ``dtype``, ready for inference.

    ``name_in_file`` says what the file calls the module's key. Raises CheckpointMismatch, naming the keys as the file does,
    when one is missing, unknown, of another shape or not made of finite floating-point numbers.
    """
    wanted = {name_in_file(name): (name, tensor.shape) for name, tensor in module.state_dict().items()}
    wrong = [f"{name} is missing" for name in wanted.keys() - weights.keys()]
    wrong += [f"{name} is not part of the model" for name in weights.keys() - wanted.keys()]
    for name in wanted.keys() & weights.keys():
        if weights[name].shape != wanted[name][1]:
            wrong.append(f"{name} has the shape {tuple(weights[name].shape)}, expected {tuple(wanted[name][1])}")
        elif not weights[name].is_floating_point():
            wrong.append(f"{name} is {weights[name].dtype}, expected floating-point numbers")
    if wrong:
        raise CheckpointMismatch(f"{path} does not fit {type(module).__name__}: {_some(sorted(wrong))}")
    ours = {name: weights[theirs].to(device, dtype, copy=True) for theirs, (name, _) in wanted.items()}
    broken = sorted(theirs for theirs, (name, _) in wanted.items() if not _finite(ours[name]))
    if damaged := [theirs for theirs in broken if not _finite(weights[theirs])]:
        raise CheckpointMismatch(f"{path}: numbers of {_some(damaged)} are NaN or infinite; the file is damaged")
    if broken:
        raise CheckpointMismatch(f"{path}: numbers of {_some(broken)} are too large for {dtype}; choose recipe.dtype=float32")
    module.load_state_dict(ours, strict=True, assign=True)
    nn.Module.to(module, device, dtype)  # the buffers that are in no file; diffusers' own `to` logs a needless warning
    return module.eval().requires_grad_(False)


def _finite(tensor: Tensor) -> bool:
    """Whether all its numbers are; least and largest say so without a copy of the tensor."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def official_name(name: str) -> str:
    """What the official code calls the weight that diffusers' motion UNet calls ``name``."""
    before, motion, inside = name.partition(".motion_modules.")
    if not motion:
        return name
    for ours, theirs in (
        (r"^(\d+)\.", r"\1.temporal_transformer."),
        (r"\.attn1\.", ".attention_blocks.0."),
        (r"\.attn2\.", ".attention_blocks.1."),
        (r"\.norm1\.", ".norms.0."),
        (r"\.norm2\.", ".norms.1."),
        (r"\.norm3\.", ".ff_norm."),
    ):
        inside = re.sub(ours, theirs, inside)
    return before + motion + inside


def _of_one_name(weights: Any, path: Path) -> dict[str, Tensor]:
    """The weights under their current names."""
    if not isinstance(weights, Mapping):
        raise CheckpointMismatch(f"{path}: its state_dict is a {type(weights).__name__}, expected a dictionary of tensors")
    current: dict[str, Tensor] = {}
    former: dict[str, str] = {}
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointMismatch(f"{path}: {name} is a {type(tensor).__name__}, expected a tensor")
        known_as = _current_name(str(name))
        if known_as in current:
            raise CheckpointMismatch(f"{path} holds {known_as} twice: as {former[known_as]} and as {name}")
        current[known_as], former[known_as] = tensor, str(name)
    return current


def _current_name(name: str) -> str:
    """LatentSync 1.0 kept the attention to speech in a module of its own."""
    return name.replace(".audio_cross_attn.norm.", ".norm2.").replace(".audio_cross_attn.attn.", ".attn2.")


def _check_positions(name: str, table: Tensor, options: UNetConfig, path: Path) -> None:
    expected = sinusoid(options.max_frames, table.shape[-1] if table.ndim else 0)[None]
    # 5e-3: bfloat16 keeps 8 bits of numbers up to 1.
    if not (table.shape == expected.shape and torch.allclose(table.float(), expected, atol=5e-3)):
        raise CheckpointMismatch(f"{path}: {name} {tuple(table.shape)} is not the sinusoid of {options.max_frames} positions")


def _seen_in(weights: Mapping[str, Tensor], options: UNetConfig) -> dict[str, Any]:
    """The options in which a checkpoint visibly differs from ``options``."""
    seen: dict[str, Any] = {}
    speech = weights.get("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    if "conv_in.weight" in weights and weights["conv_in.weight"].ndim == 4:
        seen = {"in_channels": weights["conv_in.weight"].shape[1], "audio": speech is not None}
    if "conv_out.weight" in weights and weights["conv_out.weight"].ndim == 4:
        seen["out_channels"] = weights["conv_out.weight"].shape[0]
    if speech is not None and speech.ndim == 2:
        seen["audio_width"] = speech.shape[1]
    levels = [weights.get(f"down_blocks.{level}.resnets.0.conv1.weight") for level in range(4)]
    if all(level is not None and level.ndim for level in levels):
        seen["block_out_channels"] = tuple(level.shape[0] for level in levels if level is not None)
    sides = [side for side in ("down", "up") if any(name.startswith(side) and ".motion_modules." in name for name in weights)]
    seen["motion"] = "all" if "down" in sides else "decoder" if sides else "none"
    return {name: value for name, value in seen.items() if value != getattr(options, name)}


def _some(problems: Iterable[str]) -> str:
    problems = list(problems)
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "; ".join(problems[:_LISTED]) + more
