"""Networks compiled by PyTorch, and as they are where that fails. Knows torch, and no model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from latentsync_ray.cache import cache_folder

__all__ = ["Compiling"]

log = logging.getLogger(__name__)

_VARIANTS = 128
"""Kinds of layers and sizes of pictures that one function is compiled for."""


class Compiling:
    """``compiling(function)`` is the function, compiled when it is called first for some sizes of tensors.

    What was compiled is kept on disk, where ``TORCHINDUCTOR_CACHE_DIR`` says or in the package's cache. When one function
    cannot be compiled, that is logged once, and all of this object's stay as they are from then on.
    """

    def __init__(self) -> None:
        if cache_dir() == default_cache_dir():  # PyTorch's own, in /tmp; it puts that into the environment itself
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder() / "compiled")
        self.works = True
        """Whether all that was called until now is compiled."""

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiler: Any = torch.compile
        # Timing candidates on the device would make two machines choose differently, and give other last bits.
        options = {"deterministic": True}
        fast = compiler(function, fullgraph=True, dynamic=False, recompile_limit=_VARIANTS, options=options)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.works:
                try:
                    return fast(*arguments, **options)
                except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                    self.works = False
                    reason = " ".join(str(error).split("\n", 2)[:2])  # which compiler, and what it said first
                    log.warning("the model runs without being compiled, since that failed: %s", reason.strip())
            return function(*arguments, **options)

        return call
