"""What callers send and get, as pydantic models with examples: kW and kWh, RFC 3339 UTC, prefixed ids."""
