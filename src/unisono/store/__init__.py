"""Floor 5: PostgreSQL records (tables, migrations, repositories of plain functions) and the telemetry history."""
