"""Replays of public traces: how well a policy fills a cluster, and how fast it decides. Pure, but for reading files.

Policies take arrays and give a choice (`place.choose`), so that whoever has a snapshot can ask them too. What is
compiled (numba) is imported when a simulation runs, never by the platform's process.
"""
