"""What the live region is told when it starts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from unisono.base.errors import InvalidInput
from unisono.sim.spec import WorldSpec


class LiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration file; ``seed`` and ``n_devices`` stand for a whole ``world`` when none is given."""

    api_url: str
    api_key: str
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = 1883
    # Where vendor clouds post telemetry and fetch commands; empty: api_url.
    telemetry_url: str = ""
    # Where the ledger's summary is written at the end; empty: nowhere.
    dump_path: str = ""
    seed: int = 1
    n_devices: int = 10_000
    world: WorldSpec | None = None
    # Folder of recorded traces; empty: the synthetic outside.
    trace_path: str = ""
    deliverable_hold_s: float = 180.0
    lines_per_job: int = 10_000

    def world_spec(self) -> WorldSpec:
        """Return the world to build."""
        return self.world or WorldSpec(seed=self.seed, n_devices=self.n_devices)


def read_settings(path: Path) -> LiveSettings:
    """Return the settings in a JSON file; raises InvalidInput that says what is wrong."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LiveSettings)
    except OSError as gone:
        raise InvalidInput("config", str(path), f"can't be read: {gone.strerror}") from gone
    except msgspec.DecodeError as wrong:
        raise InvalidInput("config", str(path), str(wrong)) from wrong
