"""The job specification: what a user writes, as a typed value, with every problem named at its line.

`parse` reads YAML or JSON text, `read` a decoded value, `json_schema` publishes the form. Pure: reads no file.
"""

from dujiang.jobs.spec.distributed import Distributed, Launcher
from dujiang.jobs.spec.model import (
    WEIGHT_BANDS,
    Cause,
    Checkpoint,
    Gpu,
    InputData,
    JobClass,
    JobSpec,
    Kind,
    ModelOutput,
    Outputs,
    Resources,
    Retry,
    Secret,
    resolve_secrets,
)
from dujiang.jobs.spec.order import MOST_TASKS, After, BadIndices, JobArray, When, parse_indices, upwards
from dujiang.jobs.spec.place import Burst, Deadline, Kept, Place, Placement, lateness
from dujiang.jobs.spec.read import parse, read
from dujiang.jobs.spec.schema import json_schema
from dujiang.jobs.spec.words import mended_name
from dujiang.kit.spec.problems import Problem, SpecInvalid, excerpt

__all__ = [
    "MOST_TASKS",
    "WEIGHT_BANDS",
    "After",
    "BadIndices",
    "Burst",
    "Cause",
    "Checkpoint",
    "Deadline",
    "Distributed",
    "Gpu",
    "InputData",
    "JobArray",
    "JobClass",
    "JobSpec",
    "Kept",
    "Kind",
    "Launcher",
    "ModelOutput",
    "Outputs",
    "Place",
    "Placement",
    "Problem",
    "Resources",
    "Retry",
    "Secret",
    "SpecInvalid",
    "When",
    "excerpt",
    "json_schema",
    "lateness",
    "mended_name",
    "parse",
    "parse_indices",
    "read",
    "resolve_secrets",
    "upwards",
]
