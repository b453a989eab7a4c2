"""Hypothesis for a busy machine: no deadlines, a replayable seed, as many examples as the profile says."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

from unisono.main.warm import choose_cache

# Before anything imports a kernel: the same compiled code as for the commands.
choose_cache(Path("var"))

settings.register_profile("house", deadline=None, max_examples=50, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("UNISONO_HYPOTHESIS", "house"))
