"""Submission, attempts, lifecycle and recovery of work."""
