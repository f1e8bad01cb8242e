"""The published JSON Schema of a job, for editors and for clients in other languages.

Derived from the reader's own table of fields. It lists the usual spellings: the reader takes a few more (`16 GiB`,
`01:30:00`), and checks some things a schema cannot say: names that are one variable to a program (`lr` and `LR`), an
input or a secret named twice, the size of an environment as a whole, and what placement, nodes, resources, deadline,
time limit and distributed say of one another.
"""

from __future__ import annotations

from typing import Any

from dujiang.jobs.spec.read import job_reader

SCHEMA_ID = "https://dujiang.invalid/schemas/job.schema.json"


def json_schema() -> dict[str, Any]:
    """Return the schema of one job in draft 2020-12; what it accepts, `read` accepts but for what the module names."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Dujiang job",
        "description": "A job: what to run, with what, and what to do when it fails.",
    } | job_reader().schema()
