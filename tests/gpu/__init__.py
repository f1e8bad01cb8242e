"""Tests of what needs, or stands in for, a machine with a GPU."""
