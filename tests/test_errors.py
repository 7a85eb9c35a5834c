from __future__ import annotations

import inspect
import pickle
import re

import pytest

from latentsync_ray import errors
from latentsync_ray.errors import CLIP_ERRORS, ClipError, ConfigError, DeviceLost, LatentSyncError, ModelError, is_transient

EVERY = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_the_drawn_tree_is_the_tree():
    drawing = errors.__doc__ or ""
    drawn, parents = {}, {}
    for line in drawing.splitlines():
        if found := re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(found[1]) // 4
            parents[depth] = found[2]
            drawn[found[2]] = parents[depth - 1] if depth else "Exception"
    assert drawn == {error.__name__: error.__bases__[0].__name__ for error in EVERY}


def test_every_clip_error_has_its_own_code():
    assert set(CLIP_ERRORS.values()) == set(ClipError.__subclasses__())
    assert all(error.code == code != ClipError.code for code, error in CLIP_ERRORS.items())
    for code, error in CLIP_ERRORS.items():
        assert re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower() == code
        assert re.search(rf"{error.__name__} +{code}\b", errors.__doc__ or "")


def test_transient_is_what_the_tree_says():
    said = set(re.findall(r"(\w+) \(transient", errors.__doc__ or ""))
    assert {code for code, error in CLIP_ERRORS.items() if error.transient} == said
    assert {code for code in [*CLIP_ERRORS, "", "of_another_version"] if is_transient(code)} == said


def test_fates_do_not_mix():
    for one, other in [(ClipError, ConfigError), (ClipError, ModelError), (ClipError, DeviceLost), (ConfigError, ModelError)]:
        assert not issubclass(one, other)
        assert not issubclass(other, one)


@pytest.mark.parametrize("error", EVERY)
def test_errors_travel_between_processes(error):
    sent = pickle.loads(pickle.dumps(error("the reason")))
    assert (type(sent), str(sent)) == (error, "the reason")
    assert issubclass(error, LatentSyncError)
