"""Seeded randomness: one seed, one stream per concern, so that a new draw in one place shifts no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def streams(seed: int | None, names: Sequence[str]) -> dict[str, np.random.Generator]:
    """Return one independent generator per name; `seed=None` seeds from the operating system."""
    children = np.random.SeedSequence(seed).spawn(len(names))
    return {name: np.random.default_rng(child) for name, child in zip(names, children, strict=True)}
