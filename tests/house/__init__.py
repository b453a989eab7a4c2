"""The rules of the house, checked: floors, sizes, names and units."""
