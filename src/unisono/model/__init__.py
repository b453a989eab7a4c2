"""Floor 1: the nouns handed between floors, as frozen records and columnar batches."""
