"""Dujiang: one pool, one queue and one ledger over unlike accelerators on unlike clusters."""

__version__ = "0.1.0"
