"""Floor 0: the words everything is written in: errors, instants, the calendar, units, money, ids, clocks."""
