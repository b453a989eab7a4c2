"""Telemetry history: Parquet files in device order, made visible by their manifest rows in PostgreSQL.

``kinds`` what is kept and in which columns; ``objects`` where the bytes lie; ``files`` one file; ``intake`` batches to
tables; ``rollup`` quarter-hour sums; ``manifest`` the rows that make files visible; ``writer`` the way in;
``compaction`` and ``retention`` the upkeep; ``queries`` and ``reader`` the way out; ``evidence`` the proof that
nothing was changed.
"""
