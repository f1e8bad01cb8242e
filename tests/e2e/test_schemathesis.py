"""The running API against its own published description: no fault of the server, and every answer as described.

The platform simulates its cluster, because valid requests among the generated ones submit jobs: nothing real runs.
API_EXAMPLES=200 looks longer and at other requests each time.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core import NotSet

from dujiang.jobs.spec import json_schema
from tests.chaos.process import PlatformProcess, until
from tests.jobs.spec.strategies import from_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "openapi.json"
ENDLESS = "/v1/events"
"""A stream that ends with the process alone; `tests/api/test_live.py` listens to it."""
EXAMPLES = int(os.environ.get("API_EXAMPLES", "0"))
CHECKED = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "ignored_auth",
]  # fmt: skip
"""Not `positive_data_acceptance`: what fits the description may still mean nothing, such as a share of 1.5 devices."""

OF_BODIES = "negative_data_rejection"
"""In queries, parameters that no route knows are passed over, and of one given twice the last counts."""

quick = settings(
    max_examples=EXAMPLES or 12, derandomize=not EXAMPLES, deadline=None, database=None,
    phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
api = schemathesis.openapi.from_path(PUBLISHED)


@dataclass
class Running:
    """A platform, how to ask it, and names of what is there."""

    url: str
    session: requests.Session
    names: dict[str, str]
    token: str

    def ask(self, case: schemathesis.Case) -> None:
        """Send a request and check its answer; about every second one names something that is there."""
        meta = case.meta
        if meta is None or meta.generation.mode is GenerationMode.POSITIVE:
            for name in case.path_parameters or {}:
                if zlib.crc32(str(case.path_parameters[name]).encode()) % 2 == 0:
                    case.path_parameters[name] = self.name(name, case.path)
        headers = {"Authorization": f"Bearer {self.token_for(case)}"}
        wanted = CHECKED if isinstance(case.body, NotSet) else [*CHECKED, OF_BODIES]
        checks = [check for name in wanted for check in CHECKS.get_by_names([name])]
        case.call_and_validate(
            base_url=self.url, session=self.session, headers=headers, checks=checks, timeout=60,
        )  # fmt: skip

    def name(self, parameter: str, path: str) -> str:
        """Return the name of something that is there."""
        return "sim-0001" if parameter == "name" and "/nodes/" in path else self.names[parameter]

    def token_for(self, case: schemathesis.Case) -> str:
        """Return a token; one of its own for what ends it."""
        if not case.path.endswith(("/logout", "/me/password")):
            return self.token
        headers = {"Authorization": f"Bearer {self.token}"}
        made = self.session.post(f"{self.url}/v1/tokens", json={"name": "spare"}, headers=headers, timeout=60)
        return str(made.json()["token"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    platform = PlatformProcess(tmp_path_factory.mktemp("api") / "home", env={"DUJIANG_SIMULATED__FLEET": "4x2"})
    try:
        platform.start()
        session = requests.Session()
        session.trust_env = False
        with platform.client() as client:
            until(lambda: client.get("/v1/nodes")["items"], 30, "the cluster is seen")
            client.post("/v1/projects", {"name": "lab"})
            client.post("/v1/users", {"name": "ann", "role": "member"})
            token = client.post("/v1/tokens", {"name": "spare"})["id"]
            ended = client.post("/v1/jobs", {"spec": {"name": "x", "run": "#sim exit=1", "project": "default"}})["id"]
            client.post("/v1/jobs", {"spec": {"name": "y", "run": "#sim duration=forever", "project": "default"}})
            until(lambda: client.get(f"/v1/jobs/{ended}")["finished_at"], 30, "a job has ended")
            tasks = {"name": "many", "run": "#sim duration=1", "project": "default", "array": {"size": 3}}
            client.post("/v1/jobs", {"spec": tasks})
            array = client.get("/v1/jobs?arrays=true")["items"]
            later = {"name": "nightly", "cron": "0 3 1 1 *", "spec": {"name": "z", "run": "#sim", "project": "default"}}
            client.post("/v1/schedules", later)
            upkeep = {"name": "upkeep", "nodes": ["sim-0003"], "ends_at": "2030-01-01T00:00:00Z"}
            client.post("/v1/reservations", upkeep)
            names = {
                "project": "lab", "user": "ann", "token": token, "job_id": ended, "name": "digits", "version": "latest",
                "alias": "best", "array_id": next(one["array_id"] for one in array if one.get("array_id")),
                "schedule": "nightly", "reservation": "upkeep",
            }  # fmt: skip
            yield Running(
                f"http://127.0.0.1:{platform.port}", session, names, (platform.home / "admin.token").read_text().strip()
            )
        session.close()
        with platform.client() as client:
            told = client.get("/v1/verify")
            assert told["holds"], json.dumps(told)[:5000]
        assert platform.stop() == 0
        assert platform.tracebacks() == []
    finally:
        platform.kill()  # where something failed on the way; else it has stopped


@api.exclude(path=ENDLESS).parametrize()
@quick
def test_every_operation_answers_as_described(running: Running, case: schemathesis.Case) -> None:
    running.ask(case)


@quick
@given(document=from_schema(json_schema()))
def test_every_job_that_its_schema_accepts_is_taken_or_refused_as_described(
    running: Running, document: dict[str, Any]
) -> None:
    for path, body in (("/v1/jobs", {"spec": document}), ("/v1/jobs/batch", {"specs": [document, document]})):
        running.ask(api[path]["POST"].Case(body=body, media_type="application/json"))


def test_what_is_served_is_what_is_published(running: Running) -> None:
    served = running.session.get(f"{running.url}/openapi.json", timeout=60).json()
    assert served == json.loads(PUBLISHED.read_text())
