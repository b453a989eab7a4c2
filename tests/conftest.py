"""What all tests share: Hypothesis for a busy machine, the compiled code of the commands, a nats-server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from unisono.main.warm import choose_cache

if TYPE_CHECKING:
    from unisono.engines.nats import NatsEngine

# Before anything imports a kernel: the same compiled code as for the commands.
choose_cache(Path("var"))

# No deadlines, a replayable seed, as many examples as the profile says.
settings.register_profile("house", deadline=None, max_examples=50, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("UNISONO_HYPOTHESIS", "house"))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[NatsEngine]:
    """A nats-server of the test's own, without any stream."""
    # Here, so that the cache is chosen before it.
    from tests.links.edge import nats_engine

    with nats_engine(tmp_path / "nats") as started:
        yield started
