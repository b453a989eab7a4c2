"""Unisono: many distributed energy resources, run as one dependable power plant."""

__version__ = "0.1.0"
