"""The six stages in one process: for one clip, notebooks and services, and as a runner of jobs without Ray."""

from latentsync_ray.local.model import LipSync
from latentsync_ray.local.one_clip import check_output, lipsync
from latentsync_ray.local.runner import listener, logs_folder, one_pass, prepare

__all__ = ["LipSync", "check_output", "lipsync", "listener", "logs_folder", "one_pass", "prepare"]
