"""Floor 4: the composition, still pure: arrivals, requests and instants in; command frames, totals and outcomes out."""
