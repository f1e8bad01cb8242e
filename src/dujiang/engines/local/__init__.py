"""Runs attempts on this machine. `engine.LocalEngine` is the door; helpers stay lean, so nothing is imported here."""
