"""One file a revision; `v0001_first_tables.py` is followed by `v0002_...`."""
