"""Tests of the local engine, beyond what every engine promises."""
