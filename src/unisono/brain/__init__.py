"""Floor 3: decisions. Its children do not know each other; `plant` puts them together."""
