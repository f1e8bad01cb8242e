"""What became of the model that a job was to leave behind: said where the job is shown, for its state is of the run."""

from __future__ import annotations

from typing import Any

_MOST_VERSIONS = 500
"""How many of a model's newest versions are looked through for that of a job: one page of the API."""


def model_of(client: Any, job: dict[str, Any]) -> str | None:
    """Return one line about the model that a COMPLETED job has among its outputs; None where it has none.

    Args:
        client: of the platform.
        job: as the API shows it.
    """
    outputs = (job.get("spec") or {}).get("outputs") or {}
    name = (outputs.get("model") or {}).get("name")
    if job.get("state") != "COMPLETED" or not name:
        return None
    from dujiang.client import Problem, segment

    path = f"/v1/models/{segment(name)}/versions"
    try:
        versions = client.items(path, project=job.get("project_id"), most=_MOST_VERSIONS)
        version = next((one for one in versions if one["job_id"] == job["id"]), None)
    except Problem as problem:
        if problem.status not in (403, 404):
            raise
        version = None
    where = f"`dujiang models versions {name}` lists what is registered."
    if version is None:
        return f"{name}: no version of this job is registered yet. {where}"
    label, why = f"{name} {version['version']}", f"{version['reason']}: {version['sentence']}".rstrip(": ")
    match version["state"]:
        case "READY":
            return label
        case "FAILED":
            return f"{label} could not be registered ({why}) {where}"
        case _:
            return f"{label} is not registered yet ({why}). {where}"
