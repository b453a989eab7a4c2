"""Floor 8: configuration, wiring, real clocks, the supervisor and the command line."""
