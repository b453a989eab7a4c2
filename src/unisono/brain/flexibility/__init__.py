"""What can be promised of a fleet: a firm lower bound of its flexibility."""
