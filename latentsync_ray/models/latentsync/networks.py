"""The classes of diffusers and transformers that networks are made of, for what trains them.

No other room imports those two.
"""

from __future__ import annotations

from diffusers.models.activations import GEGLU
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperEncoderLayer

__all__ = ["GEGLU", "AutoencoderKL", "DiagonalGaussianDistribution", "WhisperEncoder", "WhisperEncoderLayer"]
