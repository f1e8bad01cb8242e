"""Batch scripts of Slurm to jobs here."""
