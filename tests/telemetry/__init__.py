"""Tests of telemetry: the metrics of jobs."""
