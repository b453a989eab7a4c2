"""Floor 5: a region to run against: homes, devices, weather, networks and faults, from one seed.

It knows the platform only by its nouns (``model``) and its wire: its physics are its own, so that agreement between
the platform's estimate and the region's truth means something. ``region.Region`` runs on a movable clock,
``live`` (``python -m unisono.sim.live``) as real clients in real time.
"""
