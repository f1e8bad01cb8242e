"""Every route and who may call it: the one table, reviewed as a diff.

One row a route: admin, operator, manager, member, auditor, nobody. Each cell says what the door answers:

    A  allowed
    d  denied: 403, the role lacks the permission
    h  hidden: 404, asked of another tenant's object (for a route with such an object in its path, see `HIDDEN_FROM`)
    x  401, nobody signed in

A context that adds routes adds its rows here; the test fails for a route without a row and for a row without a route.
"""

from __future__ import annotations

from typing import Final

ROLES: Final = ("admin", "operator", "manager", "member", "auditor", "nobody")

ROUTES: Final[dict[str, str]] = {
    # public
    "GET /": "AAAAAA",
    "GET /docs": "AAAAAA",
    "GET /healthz": "AAAAAA",
    "GET /metrics": "AAAAAA",  # from this machine; from elsewhere with a token
    "GET /openapi.json": "AAAAAA",
    "GET /readyz": "AAAAAA",
    "POST /v1/login": "AAAAAA",
    # one's own account
    "POST /v1/logout": "AAAAAx",
    "GET /v1/me": "AAAAAx",
    "PUT /v1/me/password": "AAAAAx",
    "GET /v1/tokens": "AAAAAx",
    "POST /v1/tokens": "AAAAAx",
    "DELETE /v1/tokens/{token}": "AAAAAx",
    # users
    "GET /v1/users": "AAAdAx",
    "POST /v1/users": "Addddx",
    "GET /v1/users/{user}": "AAAdAx",
    "PATCH /v1/users/{user}": "Addddx",
    "DELETE /v1/users/{user}": "Addddx",
    # projects
    "GET /v1/projects": "AAAAAx",
    "POST /v1/projects": "AdAddx",
    "GET /v1/projects/{project}": "AAAAAx",
    "PATCH /v1/projects/{project}": "AdAddx",
    "DELETE /v1/projects/{project}": "AdAddx",
    "GET /v1/projects/{project}/members": "AAAAAx",
    "POST /v1/projects/{project}/members": "AdAddx",
    "DELETE /v1/projects/{project}/members/{user}": "AdAddx",
    # audit
    "GET /v1/audit": "AdddAx",
    "GET /v1/audit/verify": "AAddAx",
    "POST /v1/audit/verify": "AAddAx",
    # the platform as a whole
    "GET /v1/events": "AAAAAx",
    "GET /v1/verify": "AAddAx",
    # the pool and its ledger
    "GET /v1/clusters": "AAAAAx",
    "GET /v1/nodes": "AAAAAx",
    "GET /v1/nodes/{name}": "AAAAAx",
    "GET /v1/pool": "AAAAAx",
    "POST /v1/nodes/{name}/cordon": "AAdddx",
    "POST /v1/nodes/{name}/uncordon": "AAdddx",
    "POST /v1/nodes/{name}/drain": "AAdddx",
    "POST /v1/nodes/{name}/labels": "AAdddx",
    "POST /v1/nodes/{name}/taints": "AAdddx",
    "GET /v1/reservations": "AAAAAx",
    "POST /v1/reservations": "AAdddx",
    "GET /v1/reservations/{reservation}": "AAAAAx",
    "PATCH /v1/reservations/{reservation}": "AAdddx",
    "DELETE /v1/reservations/{reservation}": "AAdddx",
    "GET /v1/allocations": "AAAAAx",
    "GET /v1/allocations/reconcile": "AAddAx",
    # quotas and the queue
    "GET /v1/quotas": "AAAAAx",
    "PUT /v1/quotas/{project}": "AdAddx",
    "GET /v1/queue": "AAAAAx",
    "GET /v1/snapshot": "AAdddx",
    "GET /v1/moves": "AAdddx",
    "GET /v1/queues": "AAAAAx",
    "PUT /v1/queues": "AdAddx",
    # jobs
    "POST /v1/jobs": "AAAAdx",
    "POST /v1/jobs/batch": "AAAAdx",
    "POST /v1/jobs/dry-run": "AAAAdx",
    "POST /v1/convert": "AAAAdx",
    "GET /v1/jobs": "AAAAAx",
    "GET /v1/jobs/{job_id}": "AAAAAx",
    "POST /v1/jobs/{job_id}/cancel": "AAAAdx",
    "POST /v1/jobs/{job_id}/exempt": "AAdddx",
    "GET /v1/runtimes/accuracy": "AAAAAx",
    "GET /v1/arrays/{array_id}": "AAAAAx",
    "POST /v1/arrays/{array_id}/cancel": "AAAAdx",
    "GET /v1/jobs/{job_id}/logs": "AAAAAx",
    "GET /v1/jobs/{job_id}/events": "AAAAAx",
    "GET /v1/jobs/{job_id}/explain": "AAAAAx",
    "GET /v1/jobs/{job_id}/metrics": "AAAAAx",
    "POST /v1/jobs/{job_id}/metrics": "AAAAdx",
    # schedules
    "POST /v1/schedules": "AAAAdx",
    "GET /v1/schedules": "AAAAAx",
    "GET /v1/schedules/{schedule}": "AAAAAx",
    "DELETE /v1/schedules/{schedule}": "AAAAdx",
    "POST /v1/schedules/{schedule}/pause": "AAAAdx",
    "POST /v1/schedules/{schedule}/resume": "AAAAdx",
    "POST /v1/schedules/{schedule}/run": "AAAAdx",
    # models
    "GET /v1/models": "AAAAAx",
    "GET /v1/models/{name}": "AAAAAx",
    "GET /v1/models/{name}/versions": "AAAAAx",
    "GET /v1/models/{name}/versions/{version}": "AAAAAx",
    "GET /v1/models/{name}/versions/{version}/artifact": "AAAAAx",
    "PUT /v1/models/{name}/aliases/{alias}": "AAAAdx",
    "DELETE /v1/models/{name}/aliases/{alias}": "AAAAdx",
    # deployments
    "POST /v1/deployments": "AAAAdx",
    "GET /v1/deployments": "AAAAAx",
    "GET /v1/deployments/{name}": "AAAAAx",
    "DELETE /v1/deployments/{name}": "AAAAdx",
    "POST /v1/deployments/{name}/predict": "AAAAdx",
    # money
    "GET /v1/prices": "AdAAAx",
    "POST /v1/prices": "AdAddx",
    "GET /v1/bills": "AdAAAx",
    "GET /v1/bills/verify": "AAddAx",
    "GET /v1/charges": "AdAAAx",
}

HIDDEN_FROM: Final[dict[str, str]] = {
    # route: which roles get 404 when its object belongs to a project they are not a member of
    "GET /v1/projects/{project}": "member",
    "GET /v1/projects/{project}/members": "member",
    "GET /v1/jobs/{job_id}": "member",
    "POST /v1/jobs/{job_id}/cancel": "member",
    "GET /v1/arrays/{array_id}": "member",
    "POST /v1/arrays/{array_id}/cancel": "member",
    "GET /v1/jobs/{job_id}/logs": "member",
    "GET /v1/jobs/{job_id}/events": "member",
    "GET /v1/jobs/{job_id}/explain": "member",
    "GET /v1/jobs/{job_id}/metrics": "member",
    "POST /v1/jobs/{job_id}/metrics": "member",
    "GET /v1/schedules/{schedule}": "member",
    "POST /v1/schedules/{schedule}/pause": "member",
    "POST /v1/schedules/{schedule}/resume": "member",
    "POST /v1/schedules/{schedule}/run": "member",
    "DELETE /v1/schedules/{schedule}": "member",
    "GET /v1/models/{name}": "member",
    "GET /v1/models/{name}/versions": "member",
    "GET /v1/models/{name}/versions/{version}": "member",
    "GET /v1/models/{name}/versions/{version}/artifact": "member",
    "PUT /v1/models/{name}/aliases/{alias}": "member",
    "DELETE /v1/models/{name}/aliases/{alias}": "member",
    "GET /v1/deployments/{name}": "member",
    "DELETE /v1/deployments/{name}": "member",
    "POST /v1/deployments/{name}/predict": "member",
}

ENDLESS: Final = frozenset({"GET /v1/events"})
"""Streams that end only when the process does."""
