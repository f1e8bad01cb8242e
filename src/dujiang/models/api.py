"""Routes of models and deployments: list, show, alias, download; deploy, predict, remove.

Names are looked up in the projects that the caller may see; where several have one of the name, the caller's own wins,
and `project` decides what is left.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from dujiang.kit.db import Tx
from dujiang.kit.errors import DujiangError, Invalid, Stale
from dujiang.kit.http import PROBLEM_JSON, Page, Paged
from dujiang.models.artifacts import Artifacts
from dujiang.models.domain import LATEST, Deployment, Model, ModelVersion, VersionNumber, require_ready
from dujiang.models.predict import Predictor
from dujiang.models.schemas import (
    AliasIn,
    DeployIn,
    DeploymentOut,
    ModelDetailOut,
    ModelOut,
    VersionDetailOut,
    VersionOut,
    deployment_out,
    model_out,
    version_detail_out,
    version_out,
)
from dujiang.models.service import DeploymentService, ModelRegistry
from dujiang.tenancy.access import JOURNALED, Caller, needs
from dujiang.tenancy.domain import Permission
from dujiang.tenancy.service import Tenancy

Reader = Annotated[Caller, Depends(needs(Permission.MODEL_READ))]
Writer = Annotated[Caller, Depends(needs(Permission.MODEL_WRITE))]
Deployer = Annotated[Caller, Depends(needs(Permission.DEPLOY))]
ProjectRef = Annotated[str | None, Query(min_length=1, max_length=63, description="Name or id of a project.")]

_PROBLEM: dict[str, Any] = {"content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_INFERENCE = {"schema": {"type": "object", "description": "Of the Open Inference Protocol V2."}}


def router(
    registry: ModelRegistry, deployments: DeploymentService, artifacts: Artifacts, predictor: Predictor,
    tenancy: Tenancy,
) -> APIRouter:  # fmt: skip
    """Return the routes of models and deployments."""
    routes = APIRouter(prefix="/v1")
    where = _Where(registry, deployments, tenancy)
    _models(routes, registry, where)
    _versions(routes, registry, artifacts, where)
    _aliases(routes, registry, where)
    _deployments(routes, registry, deployments, artifacts, where)
    _predict(routes, predictor, where)
    return routes


class _Where:
    """Finds what a path names, for this caller."""

    def __init__(self, registry: ModelRegistry, deployments: DeploymentService, tenancy: Tenancy) -> None:
        self._registry, self._deployments, self._tenancy = registry, deployments, tenancy

    async def projects(self, tx: Tx, caller: Caller, project: str | None) -> Collection[str] | None:
        """Return the projects to look in; None is every one."""
        if project is None:
            return caller.reach(Permission.MODEL_READ)
        return [(await self._tenancy.project_for(tx, caller.principal, project, Permission.MODEL_READ)).id]

    async def model(self, tx: Tx, caller: Caller, ref: str, project: str | None) -> Model:
        """Return a model that the caller may know of."""
        ids = await self.projects(tx, caller, project)
        return await self._registry.model(tx, ref, ids, own=caller.principal.project_ids)

    async def deployment(self, tx: Tx, caller: Caller, ref: str, project: str | None) -> Deployment:
        """Return a deployment that the caller may know of."""
        ids = await self.projects(tx, caller, project)
        return await self._deployments.deployment(tx, ref, ids, own=caller.principal.project_ids)

    async def to_deploy(self, tx: Tx, caller: Caller, body: DeployIn) -> tuple[Model, ModelVersion]:
        """Return what is to be deployed, in a project in which the caller may deploy."""
        model = await self.model(tx, caller, body.model, body.project)
        await self._tenancy.project_for(tx, caller.principal, model.project_id, Permission.DEPLOY, active=True)
        return model, require_ready(await self._registry.version(tx, model, body.version or body.alias or LATEST))

    async def names(self, tx: Tx, project_ids: Collection[str]) -> dict[str, str]:
        """Return the names of projects by identifier."""
        ids = set(project_ids)
        return {
            one.id: one.name for one in await self._tenancy.projects(tx, ids=ids, archived=True, limit=len(ids) or 1)
        }


def _models(routes: APIRouter, registry: ModelRegistry, where: _Where) -> None:
    @routes.get("/models", tags=["models"])
    async def list_models(caller: Reader, paging: Paged, project: ProjectRef = None) -> Page[ModelOut]:
        """List registered models in the order in which they came to be."""
        after = paging.after(str)
        async with caller.reading() as tx:
            ids = await where.projects(tx, caller, project)
            found = await registry.models(tx, ids, after=after[0] if after else "", limit=paging.limit + 1)
            kept, next_cursor = paging.page(found, lambda one: [one.model.id])
            names = await where.names(tx, [one.model.project_id for one in kept])
        return Page(items=[model_out(one, names) for one in kept], next_cursor=next_cursor)

    @routes.get("/models/{name}", tags=["models"])
    async def show_model(caller: Reader, name: str, project: ProjectRef = None) -> ModelDetailOut:
        """Show a model and what its aliases name."""
        async with caller.reading() as tx:
            model = await where.model(tx, caller, name, project)
            names = await where.names(tx, [model.project_id])
            told = model_out(await registry.listed(tx, model), names)
            return ModelDetailOut(**told.model_dump(), aliases=await registry.alias_map(tx, model))


def _versions(routes: APIRouter, registry: ModelRegistry, artifacts: Artifacts, where: _Where) -> None:
    @routes.get("/models/{name}/versions", tags=["models"])
    async def list_model_versions(
        caller: Reader, paging: Paged, name: str, project: ProjectRef = None
    ) -> Page[VersionOut]:
        """List the versions of a model, the greatest number first."""
        after = paging.after(int, int, int)
        async with caller.reading() as tx:
            model = await where.model(tx, caller, name, project)
            before = VersionNumber(*after) if after else None
            found = await registry.versions(tx, model, before=before, limit=paging.limit + 1)
            kept, next_cursor = paging.page(found, lambda one: [one.number.major, one.number.minor, one.number.patch])
            aliases = await registry.aliases(tx, kept)
        return Page(items=[version_out(one, aliases.get(one.id, [])) for one in kept], next_cursor=next_cursor)

    @routes.get("/models/{name}/versions/{version}", tags=["models"])
    async def show_model_version(
        caller: Reader, name: str, version: str, project: ProjectRef = None
    ) -> VersionDetailOut:
        """Show a version (a number, an alias or `latest`) and what it was made from."""
        async with caller.reading() as tx:
            found = await registry.version(tx, await where.model(tx, caller, name, project), version)
            aliases = await registry.aliases(tx, [found])
            return version_detail_out(found, aliases.get(found.id, []), await registry.lineage(tx, found))

    @routes.get(
        "/models/{name}/versions/{version}/artifact",
        tags=["models"],
        response_class=StreamingResponse,
        responses={
            200: {"content": {"application/octet-stream": _BINARY}},
            409: {"description": "The version has no file", **_PROBLEM},
            500: {"description": "The stored file is damaged", **_PROBLEM},
        },
    )
    async def download_artifact(caller: Reader, name: str, version: str, project: ProjectRef = None) -> Response:
        """Give the file of a version."""
        async with caller.reading() as tx:
            found = await registry.version(tx, await where.model(tx, caller, name, project), version)
        require_ready(found)
        headers = {
            "Content-Length": str(found.bytes),
            "Content-Disposition": f'attachment; filename="{found.model}-{found.number}.onnx"',
            "ETag": f'"{found.digest}"',
        }
        pieces = await artifacts.stream(found.digest)
        return StreamingResponse(pieces, media_type="application/octet-stream", headers=headers)


def _aliases(routes: APIRouter, registry: ModelRegistry, where: _Where) -> None:
    @routes.put("/models/{name}/aliases/{alias}", tags=["models"])
    async def set_model_alias(
        caller: Writer, name: str, alias: str, body: AliasIn, project: ProjectRef = None
    ) -> VersionOut:
        """Let an alias name a version; an alias names one version at a time."""
        async with caller.transaction() as tx:
            model = await where.model(tx, caller, name, project)
            caller.require(Permission.MODEL_WRITE, model.project_id)
            found = await registry.set_alias(tx, model, alias, body.version, by=caller.principal.user_id)
            aliases = await registry.aliases(tx, [found])
            return version_out(found, aliases.get(found.id, []))

    @routes.delete("/models/{name}/aliases/{alias}", tags=["models"], status_code=204)
    async def remove_model_alias(caller: Writer, name: str, alias: str, project: ProjectRef = None) -> None:
        """Let an alias name nothing; the version stays."""
        async with caller.transaction() as tx:
            model = await where.model(tx, caller, name, project)
            caller.require(Permission.MODEL_WRITE, model.project_id)
            await registry.remove_alias(tx, model, alias)


def _deployments(
    routes: APIRouter, registry: ModelRegistry, deployments: DeploymentService, artifacts: Artifacts, where: _Where
) -> None:
    @routes.post("/deployments", tags=["deployments"], status_code=201, response_model=DeploymentOut)
    async def deploy_model(caller: Deployer, body: DeployIn) -> Response:
        """Deploy a version as a service on the pool; a deployment of that name is moved to it.

        What answers stays in use until the new service answers. Rolling back is deploying the version before.
        """
        if body.version is not None and body.alias is not None:
            raise Invalid("Name either a version or an alias.")
        wanted = None if body.resources is None else body.resources.model_dump(exclude_none=True)
        await bring_file(caller, body)

        async def make(tx: Tx) -> DeploymentOut:
            model, version = await where.to_deploy(tx, caller, body)
            file = artifacts.ready(version.digest)
            if file is None:
                raise Stale("What is to be deployed has changed meanwhile; try again.")
            made = await deployments.deploy(
                tx, model, version, by=caller.principal.user_id, file=file, name=body.name, resources=wanted
            )
            return deployment_out(made, await where.names(tx, [made.project_id]))

        return await caller.once(make)

    async def bring_file(caller: Caller, body: DeployIn) -> None:
        """Have the file where the service will look, before there is a transaction; what cannot be is told in it."""
        version: ModelVersion | None = None
        with suppress(DujiangError):
            async with caller.reading() as tx:
                _, version = await where.to_deploy(tx, caller, body)
        if version is not None:
            await artifacts.local(version.digest)

    @routes.get("/deployments", tags=["deployments"])
    async def list_deployments(
        caller: Reader,
        paging: Paged,
        project: ProjectRef = None,
        all: Annotated[bool, Query(description="Those that were removed too.")] = False,
    ) -> Page[DeploymentOut]:
        """List deployments, the newest first."""
        after = paging.after(str)
        async with caller.reading() as tx:
            ids = await where.projects(tx, caller, project)
            found = await deployments.deployments(
                tx, ids, live=not all, before=after[0] if after else None, limit=paging.limit + 1
            )
            kept, next_cursor = paging.page(found, lambda one: [one.id])
            names = await where.names(tx, [one.project_id for one in kept])
        return Page(items=[deployment_out(one, names) for one in kept], next_cursor=next_cursor)

    @routes.get("/deployments/{name}", tags=["deployments"])
    async def show_deployment(caller: Reader, name: str, project: ProjectRef = None) -> DeploymentOut:
        """Show a live deployment by name, or any by its identifier."""
        async with caller.reading() as tx:
            one = await where.deployment(tx, caller, name, project)
            return deployment_out(one, await where.names(tx, [one.project_id]))

    @routes.delete("/deployments/{name}", tags=["deployments"], status_code=202)
    async def remove_deployment(caller: Deployer, name: str, project: ProjectRef = None) -> DeploymentOut:
        """Stop a deployment and its service; it is gone once the service has ended."""
        async with caller.transaction() as tx:
            one = await where.deployment(tx, caller, name, project)
            caller.require(Permission.DEPLOY, one.project_id)
            gone = await deployments.remove(tx, one)
            return deployment_out(gone, await where.names(tx, [gone.project_id]))


def _predict(routes: APIRouter, predictor: Predictor, where: _Where) -> None:
    @routes.post(
        "/deployments/{name}/predict",
        tags=["deployments"],
        response_class=StreamingResponse,
        responses={
            200: {"description": "The outputs", "content": {"application/json": _INFERENCE}},
            502: {"description": "The service does not answer, or the model failed", **_PROBLEM},
            504: {"description": "The service took too long", **_PROBLEM},
        },
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": _INFERENCE}}},
    )
    async def predict(caller: Deployer, name: str, project: ProjectRef = None) -> Response:
        """Ask a deployment: an inference request of the Open Inference Protocol V2, passed on as it is."""
        async with caller.reading() as tx:
            one = await where.deployment(tx, caller, name, project)
        caller.require(Permission.DEPLOY, one.project_id)
        answer = await predictor.ask(one, await caller.request.body(), caller.request.headers)
        caller.request.scope[JOURNALED] = True  # it changes nothing: a record for each question would be the journal
        return answer
