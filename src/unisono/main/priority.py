"""How much of the processor a process may claim: the desk's work waits for everything else."""

from __future__ import annotations

import os


def lower_to_desk() -> None:
    """Let everything else run first, before this process and the ones that it starts; there is no way back.

    Under ``SCHED_IDLE`` (Linux) it gets what nobody else wants; elsewhere the lowest of the usual priorities.
    """
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
