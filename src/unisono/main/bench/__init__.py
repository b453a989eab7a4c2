"""Benches: a figure, our own plain twin measured in the same run, and checks that the result is right."""
