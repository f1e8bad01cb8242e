"""Tests of how a platform is put together."""
