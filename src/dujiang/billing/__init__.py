"""Prices, charges and bills over the allocation ledger."""
