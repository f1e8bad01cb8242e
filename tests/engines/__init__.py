"""Tests of the engines, beyond what all of them promise."""
