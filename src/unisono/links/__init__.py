"""Floor 5: connections to devices, gateways, utilities and markets; one folder each with a manifest.

``contract`` says what a link is; ``identity`` who is enrolled, as integers; ``reception`` turns what arrived on any
link into batches; ``waiting`` holds what comes faster than it is kept; ``tally`` counts. Links do not know each other,
nor the bus: they are given an ``Intake``.
"""
