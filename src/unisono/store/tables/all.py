"""Importing this module fills METADATA with every table."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from unisono.store.tables import devices, dispatches, operations, parties, places, portfolios, records
from unisono.store.tables.metadata import METADATA

MODULES: Final = (parties, places, devices, portfolios, dispatches, operations, records)
ALL_TABLES: Final[MetaData] = METADATA
