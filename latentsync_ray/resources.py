"""What a run may use: machines, and how much of them. Nothing here changes a result."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from latentsync_ray.types import Device

__all__ = ["Budget", "Cluster", "Strict"]


class Strict(BaseModel):
    """A section of a job: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Cluster(Strict):
    """Everything that may only change speed: two clusters give the same files, byte for byte, on the same kind of processor.

    On GPUs, ``recipe.micro_batch`` has to be a number for that: how many windows ``auto`` takes depends on their memory.
    """

    runner: Literal["ray", "local"] = "ray"
    """Ray Data over a cluster or this machine, or all stages in this process."""
    address: str | None = None
    """Ray cluster to join, e.g. "auto" or "ray://head:10001"; by default a new one on this machine."""
    device: Device = "auto"
    """Where the model runs."""
    generate_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs per model worker; by default 1 when the cluster has GPUs, else 0."""
    accelerator: str | None = None
    """Kind of GPU that models run on, by Ray's name for it, e.g. A100; by default the one that the cluster has most of.

    Two kinds differ in last bits, and the segments of a clip must not.
    """
    device_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What a model worker has of its device's memory, in GB; by default asked from the device. ``recipe.micro_batch`` has to
    fit it."""
    peak_tflops: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """What the device can do at best, dense bf16, for the summary of a run; by default from a table of cards."""
    generate_workers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Fewest and most model workers; by default up to one per GPU that the cluster has when the job starts, or one in all.

    0 as the fewest: a cluster that has no GPU will get some, and the job waits for the first, which stays to the end.
    """
    generate_cpus: Annotated[float, Field(ge=0)] = 0.5
    """CPUs reserved per model worker."""
    track_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per video that is looked through; by default the one that it keeps busy, or half of it on nodes of fewer
    than four."""
    crop_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per segment that is cut out; by default as ``track_cpus``."""
    paste_cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs reserved per encoding task; by default as ``track_cpus``."""
    passes: Annotated[int, Field(ge=1, le=10)] = 3
    """How often clips whose worker died are tried before they are recorded as ``worker_died``."""
    object_store_gb: Annotated[float, Field(gt=0)] | None = None
    """Ray object store of a cluster started here."""
    no_progress_seconds: Annotated[float, Field(gt=0)] = 1800
    """A pass in which nothing moves for so long is ended and tried again; if it is the first and gave nothing, the job ends."""


class Budget(Strict):
    """What a run may use of GPUs: it ends early rather than exceed it, and the next run goes on."""

    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of model workers' devices, working or waiting for work."""
    dollars: Annotated[float, Field(gt=0)] | None = None
    """The same as money, by ``dollars_per_hour``."""
    dollars_per_hour: Annotated[float, Field(gt=0)] | None = None
    """What one device costs."""

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.dollars and not self.dollars_per_hour:
            raise PydanticCustomError("dollars", "dollars needs dollars_per_hour, the price of one device")
        return self

    @property
    def hours(self) -> float | None:
        """The smaller of both; None: without end."""
        money = self.dollars / self.dollars_per_hour if self.dollars and self.dollars_per_hour else None
        return min((each for each in (self.gpu_hours, money) if each is not None), default=None)
