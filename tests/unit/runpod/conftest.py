"""An account at RunPod whose time is free, for the tests that bring none of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manyhost.runpod.api import Api

from tests.helpers.runpod import Account, Clock, Near


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(clock: Clock) -> Iterator[Account]:
    with Account(clock) as made:
        yield made


@pytest.fixture
def api(cloud: Account, clock: Clock) -> Api:
    return Near(cloud, clock)
