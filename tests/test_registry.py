from __future__ import annotations

import pytest

from latentsync_ray import registry
from latentsync_ray.errors import ConfigError
from latentsync_ray.registry import DETECTORS, SINKS, lookup


@pytest.mark.parametrize(("table", "name"), [(table, name) for table in (DETECTORS, SINKS) for name in table])
def test_every_entry_exists(table, name):
    assert lookup(table, name, "thing").__name__ == table[name].split(":")[1]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown sink 'tape'; known: mp4"):
        lookup(registry.SINKS, "tape", "sink")
