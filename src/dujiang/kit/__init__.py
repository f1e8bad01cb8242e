"""Shared machinery that knows no context: clock, ids, database, journal, loops, errors, units."""
