"""Load, endurance and faults: what the server does when many ask, for long, or wrongly. See `__main__`."""
