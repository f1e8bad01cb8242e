"""Clusters, nodes, devices and the allocation ledger."""
