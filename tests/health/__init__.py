"""Tests of health: what is said about failures."""
