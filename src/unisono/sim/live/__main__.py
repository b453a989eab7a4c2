"""Entry of the live region's process; the only place in ``sim`` that has real clocks and standard streams."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from unisono.base.errors import UnisonoError
from unisono.sim.live.run import LiveRegion, make_region
from unisono.sim.live.settings import read_settings

# A list of all device numbers to watch is some 70 kB.
ORDER_BYTES_MAX = 8 << 20


class _RealClock:
    """The operating system's clocks."""

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return monotonic nanoseconds."""
        return time.monotonic_ns()


def main() -> int:
    """Run until told to stop; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m unisono.sim.live", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file, see unisono.sim.live.settings")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        region = make_region(read_settings(parser.parse_args().config), _RealClock(), _say)
        asyncio.run(_live(region))
    except UnisonoError as wrong:
        _say({"phase": "failed", "error": str(wrong)})
        return 1
    except ExceptionGroup as wrongs:
        _say({"phase": "failed", "error": "; ".join(repr(wrong) for wrong in wrongs.exceptions)})
        raise
    return 0


async def _live(region: LiveRegion) -> None:
    """Run it and write the truth at the end; a terminate signal ends it as the order to stop does."""
    task = asyncio.create_task(region.run(_orders()))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        _say({"phase": "stopping"})
    region.dump()
    _say({"phase": "stopped"})


async def _orders() -> AsyncIterator[bytes]:
    """Yield lines from stdin; its end is the order to stop."""
    reader = asyncio.StreamReader(limit=ORDER_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line


def _say(status: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(status) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
