"""Adapters to what really runs work, behind one protocol (`contract`)."""
