"""Every error as an RFC 9457 problem: ours, the framework's, and a request that does not fit its schema."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dujiang.api.edge import CODE
from dujiang.kit.errors import DujiangError, Invalid, NotFound, did_you_mean
from dujiang.kit.http import problem_response
from dujiang.tenancy.access import REQUEST_ID, Door, permission_of

_NAME: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""How the contexts write what a name is."""


class NoSuchRoute(NotFound):
    """The API has no such path."""

    code: ClassVar[str] = "no_such_route"
    title: ClassVar[str] = "There is no such path"


class MethodNotAllowed(DujiangError):
    """The path is there, not for this method."""

    code: ClassVar[str] = "method_not_allowed"
    http_status: ClassVar[int] = 405
    title: ClassVar[str] = "Not by this method"


class UnsupportedMediaType(DujiangError):
    """The route takes JSON."""

    code: ClassVar[str] = "unsupported_media_type"
    http_status: ClassVar[int] = 415
    title: ClassVar[str] = "Send JSON"


class BadRequest(Invalid):
    """The request cannot be read."""

    code: ClassVar[str] = "bad_request"
    http_status: ClassVar[int] = 400


def install(app: FastAPI) -> None:
    """Let the application answer every error that reaches it as a problem."""
    app.add_exception_handler(DujiangError, _ours)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(HTTPException, _framework)


def respond(request: Request, error: DujiangError, headers: dict[str, str] | None = None) -> Response:
    """Return the answer of an error, and note its code for the request's record."""
    request.scope[CODE] = error.code
    if error.http_status == 401:
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
    return problem_response(
        error, request_id=request.scope.get(REQUEST_ID, ""), instance=request.url.path, headers=headers
    )


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, DujiangError)
    return respond(request, error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return respond(request, NoSuchRoute("There is no such path; /openapi.json lists those there are."))
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        return respond(request, MethodNotAllowed(f"This path takes {allowed}."), {"Allow": allowed})
    return respond(request, BadRequest(str(error.detail)))


async def _unfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    try:
        await _let_in(request)
    except DujiangError as refused:  # who may not ask is not told what the question should look like
        return respond(request, refused)
    if isinstance(error.body, bytes) and "json" not in request.headers.get("content-type", "json"):
        return respond(request, UnsupportedMediaType("This path takes JSON; send Content-Type: application/json."))
    body_type = _body_type(request)
    errors = [_one(item, body_type) for item in error.errors()[:50]]
    first = errors[0]
    field = first["field"].removeprefix("query.")  # who typed it knows it by its name alone
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return respond(request, Invalid(f"{field}: {first['message']}{more}", errors=errors))


async def _let_in(request: Request) -> None:
    permission = permission_of(getattr(request.scope.get("route"), "dependant", None))
    if permission is not None:
        door: Door = request.app.state.door
        (await door.principal(request.scope)).require(permission)


def _one(item: dict[str, Any], body_type: Any) -> dict[str, str]:
    where: Sequence[str | int] = item["loc"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = list(_fields_at(body_type, where[1:-1])) if where[0] == "body" else []
        message = f"there is no such field.{did_you_mean(str(where[-1]), known)}"
    elif item["type"] in ("enum", "literal_error") and isinstance(given := item.get("input"), str):
        words = re.findall("'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
        message = f"write one of {', '.join(words)}.{did_you_mean(given[:60], words)}"
    elif item["type"] == "string_pattern_mismatch" and item.get("ctx", {}).get("pattern") == _NAME:
        message = "a name has up to 63 lower-case letters, digits and dashes, with a letter or digit at both ends."
    return {"field": _path(where), "message": message, "type": str(item["type"])}


def _path(where: Sequence[str | int]) -> str:
    text = ""
    for part in where if len(where) == 1 or where[0] != "body" else where[1:]:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")[:200]


def _body_type(request: Request) -> Any:
    field = getattr(request.scope.get("route"), "body_field", None)
    return getattr(getattr(field, "field_info", None), "annotation", None)


def _fields_at(annotation: Any, where: Sequence[str | int]) -> Iterator[str]:
    """Walk a body's type down a path of the validator and yield the fields' names there, as far as it can tell."""
    for model in _models(annotation):
        if not where:
            yield from model.model_fields
        elif (field := model.model_fields.get(str(where[0]))) is not None:
            yield from _fields_at(field.annotation, where[1:])
        else:  # an index, a key, or the name of a union's member
            yield from _fields_at(model, where[1:])


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _methods(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.router.routes:
        regex = getattr(route, "path_regex", None)
        if regex is not None and regex.match(request.url.path):
            found |= getattr(route, "methods", None) or set()
    return found
