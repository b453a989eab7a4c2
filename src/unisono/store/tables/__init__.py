"""The tables, one module a group of nouns; ``metadata.METADATA`` holds them all once ``tables.all`` is imported."""
