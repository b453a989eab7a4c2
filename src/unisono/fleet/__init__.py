"""Floor 2: the state of every device in columns: what it is, what was heard of it, what it holds, what it can do."""
