"""The main job in four minutes: start a plant and a region, call for power, judge by the region's own meters."""
