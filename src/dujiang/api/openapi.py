"""The published description of the API, with what the framework cannot know: problems, permissions, error codes."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from dujiang.kit.errors import DujiangError
from dujiang.kit.http import PROBLEM_JSON
from dujiang.tenancy.access import permission_of

DESCRIPTION: Final = """The open operating platform of an AI compute centre.

Sign in with `POST /v1/login`, or use an API token: `Authorization: Bearer dj_...`.
Every error is a problem of RFC 9457 with a stable `code`; `retryable` says whether the same request may succeed later.
Listings give `items` and `next_cursor`. A POST with an `Idempotency-Key` takes effect once in 24 hours.
"""

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to do next, for people."},
        "code": {"type": "string", "description": "What went wrong, for programs; see x-error-codes."},
        "retryable": {"type": "boolean"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {"type": "string"}, "message": {"type": "string"}, "type": {"type": "string"},
                },
            },
        },
    },
    "additionalProperties": True,
}  # fmt: skip

_SHARED: Final = {400: "The request cannot be read", 429: "Too many requests", 503: "Temporarily unavailable"}
_GUARDED: Final = {401: "Sign in first", 403: "Not allowed"}
_ASK_THEMSELVES: Final = frozenset({"/metrics", "/v1/login"})
"""Routes that anybody may call and that ask who it is by themselves."""
_NAMING: Final = frozenset({"cluster", "project", "user", "node"})
"""Parameters of queries that name an object which may not be there."""


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document; the same routes give the same document."""
    document = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # the framework's own form, which is never answered
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    components["responses"] = {
        "Problem": {
            "description": "Problem (RFC 9457)",
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "dj_<id>_<secret>"}}
    guards = {
        (method.lower(), route.path): permission_of(route.dependant)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            _complete(operation, method, path, guards.get((method, path)))
    document["x-error-codes"] = error_codes()
    return document


_NEVER_ANSWERED: Final = (
    "dujiang.cli",
    "dujiang.bootstrap",
    "dujiang.engines.local",
    "dujiang.engines.simulated",
    "dujiang.kit.migrate",
    "dujiang.kit.settings",
    "dujiang.api.server",
)
"""Parts whose errors reach no caller of the API, or only in the words of the contract."""


def error_codes() -> dict[str, dict[str, Any]]:
    """Return every code that the loaded parts of the platform can answer, with status and title."""
    found: dict[str, dict[str, Any]] = {}
    waiting: list[type[DujiangError]] = [DujiangError]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        if one.__module__.startswith("dujiang.") and not one.__module__.startswith(_NEVER_ANSWERED):
            facts = {"status": one.http_status, "title": one.title, "retryable": one.retryable}
            if one.code not in found or "code" in vars(one):
                found[one.code] = facts
    return dict(sorted(found.items()))


def _complete(operation: dict[str, Any], method: str, path: str, permission: str | None) -> None:
    responses = operation.setdefault("responses", {})
    told = dict(_SHARED)
    if permission is not None:
        told |= _GUARDED
        operation["security"] = [{"token": []}]
        operation["x-permission"] = str(permission)
    elif path in _ASK_THEMSELVES:
        told |= _GUARDED
    if "{" in path or any(one["name"] in _NAMING for one in operation.get("parameters", ())):
        told[404] = "Not found"
    if method in ("post", "put", "patch", "delete"):
        told |= {404: "Not found", 409: "Conflict", 507: "No space left"}
    if "requestBody" in operation:
        told |= {413: "The body is too large", 415: "Send JSON", 422: "The request is not valid"}
    if operation.get("parameters"):
        told[422] = "The request is not valid"
    else:
        responses.pop("422", None) if "requestBody" not in operation else None
    for status in told:
        responses[str(status)] = {"$ref": "#/components/responses/Problem"}
    operation["responses"] = dict(sorted(responses.items()))
