"""One module a technology: kernels over columns that advance the actual device and its undispatched twin together.

In every kernel ``state[fact, twin, row]`` holds the actual device at twin 0 and its twin at 1, ``fixed[fact, row]``
what never changes, ``commanded_w[row]`` the setpoint (NaN: none; the twin never has one). What comes from outside
(weather, draws, sessions, loads) is drawn once and given to both. Power is positive into the grid.
"""
