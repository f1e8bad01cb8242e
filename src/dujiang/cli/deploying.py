"""Starting a deployment and waiting until it answers."""

from __future__ import annotations

import time
from typing import Any

from dujiang.cli.exits import Exit
from dujiang.cli.output import note
from dujiang.cli.session import Stop, connect

_WAIT_S = 300.0
_LOOK_EVERY_S = 0.2
_READY = frozenset({"READY", "ACTIVE", "SERVING"})
_BROKEN = frozenset({"FAILED", "REMOVED", "STOPPED"})


def start_deployment(
    model: str, *, name: str | None, project: str | None, resources: dict[str, str], wait: bool, quiet: bool
) -> dict[str, Any]:
    """Deploy `MODEL` or `MODEL:VERSION` and return the deployment, answering when asked to wait.

    Raises:
        Stop: it did not come up.
    """
    model_name, _, version = model.partition(":")
    body: dict[str, Any] = {"model": model_name, "name": name or model_name}
    body |= {"version": version} if version else {}
    body |= {"project": project} if project else {}
    body |= {"resources": resources} if resources else {}
    with connect() as client:
        found: dict[str, Any] = client.post("/v1/deployments", body)
        return _until_ready(client, found, project, quiet=quiet) if wait else found


def _until_ready(client: Any, found: dict[str, Any], project: str | None, *, quiet: bool) -> dict[str, Any]:
    from dujiang.client import persist, segment

    end, said = time.monotonic() + _WAIT_S, ""
    path = f"/v1/deployments/{segment(found['name'])}"
    # What is moved answers all the while, by the version before.
    while found.get("state") not in _READY or found.get("moving_to"):
        line = f"{found['name']}: {found.get('state')} {found.get('reason') or ''}".rstrip()
        if line != said and not quiet:
            note(line)
            said = line
        if found.get("state") in _BROKEN:
            raise Stop(f"{line}. `dujiang explain {found.get('job_id') or found['name']}` says why.", Exit.FAILED)
        if time.monotonic() > end:
            raise Stop(f"{line} after {_WAIT_S:.0f} s; it may still come up: `dujiang deployments`.", Exit.FAILED)
        time.sleep(_LOOK_EVERY_S)
        found = persist(lambda: dict(client.get(path, project=project)), for_s=_WAIT_S)
    if found.get("reason") == "MoveFailed":
        raise Stop(f"{found['name']}: {found.get('sentence')}", Exit.FAILED)
    return found
