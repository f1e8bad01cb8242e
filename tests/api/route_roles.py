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
}

HIDDEN_FROM: Final[dict[str, str]] = {
    # route: which roles get 404 when its object belongs to a project they are not a member of
    "GET /v1/projects/{project}": "member",
    "GET /v1/projects/{project}/members": "member",
}
