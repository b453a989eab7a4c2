"""Targets into setpoints: profiles, the closed loop, the policies that share a target out, and the gates."""
