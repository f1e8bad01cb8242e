"""What can be set about models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of models, their services and their loops."""

    python: str
    """The interpreter that has this package; it checks files and serves models."""
    cache_folder: Path
    """Where services find the files they serve; every node must see it under this path."""
    largest_artifact_bytes: int = 20 * 2**30
    """A larger file is no model version. Too little refuses real models, too much lets one job fill the store."""
    figures_within_s: float = 60.0
    """How long a version waits for the figures of its job to be read. Too little and a late accuracy is missing from
    the version for good; too much and a job whose figures never come is registered late."""
    check_within_s: float = 300.0
    """How long loading a file may take before it counts as not loadable."""
    ready_within_s: float = 1.0
    """How long a service may take to say that it is ready."""
    ready_every_s: float = 2.0
    """How often a service that answers is asked again. Too little is work for nothing, too much notices late that one
    hangs; one that ends is noticed by its job, at once."""
    predict_within_s: float = 60.0
    """How long a service may be silent while a prediction is waited for."""
    service_retries: int = 100
    """How often a service that broke is started again."""
