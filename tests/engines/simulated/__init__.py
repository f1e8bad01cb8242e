"""Tests of virtual clusters."""
