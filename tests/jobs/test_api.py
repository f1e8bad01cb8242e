"""The routes of jobs and of the queue, as tenants meet them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.engines.simulated import Faults
from dujiang.jobs.domain import Job
from dujiang.tenancy.domain import Role
from tests.jobs.test_loops import Printing
from tests.platforms import SIM, Scene

WHOLE = {"gpu": {"count": 2}}
HOSTILE = ["%00", "..%2f..%2fetc", "'; DROP TABLE jobs; --", "\U0001f600" * 30, "job_" + "z" * 26, "a" * 3000, "%ff%fe"]


def a_spec(**fields: Any) -> dict[str, Any]:
    return {"spec": {"name": "a-job", "run": "#sim duration=5", "project": "own", **fields}}


async def events_of(answer: httpx.Response) -> list[dict[str, str]]:
    """Return the events of a stream that has ended."""
    found: list[dict[str, str]] = []
    for block in answer.text.split("\n\n"):
        event: dict[str, str] = {}
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            if name and name != "retry":
                event[name] = f"{event[name]}\n{value}" if name in event else value
        if event:
            found.append(event)
    return found


# -- submit ------------------------------------------------------------------------------------------------------------


async def test_a_job_is_taken_and_shown_as_it_is(scene: Scene) -> None:
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/jobs", json=a_spec(labels={"a": "b"}, resources={"gpu": {"fraction": 0.5}}))
        assert answer.status_code == 201
        job = answer.json()
        assert job["spec"]["resources"]["gpu"] == {"fraction": 0.5}
        assert (job["state"], job["project"], job["submitted_by"], job["labels"]) == (
            "PENDING", "own", "the-member", {"a": "b"},
        )  # fmt: skip
        assert (await client.get(f"/v1/jobs/{job['id']}")).json() == job
        await scene.until(job["id"])
        ended = (await client.get(f"/v1/jobs/{job['id']}")).json()
    assert {"id", "name", "state", "reason", "exit_code", "signal", "attempts"} <= ended.keys()
    assert (ended["state"], ended["exit_code"], ended["signal"]) == ("COMPLETED", 0, None)
    (attempt,) = ended["attempts"]
    assert {"number", "state", "reason", "exit_code", "signal", "node", "started_at", "finished_at"} <= attempt.keys()
    assert (attempt["number"], attempt["state"], attempt["node"]) == (1, "COMPLETED", "sim-0001")
    assert attempt["started_at"] < attempt["finished_at"]


async def test_one_key_makes_one_job_also_when_asked_at_once(both: Scene) -> None:
    key = {"Idempotency-Key": "my-key"}
    async with both.client(Role.MEMBER) as client:
        answers = await asyncio.gather(*(client.post("/v1/jobs", json=a_spec(), headers=key) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sorted(answer.headers.get("idempotency-replayed", "") for answer in answers) == ["", *["true"] * 3]
        other = await client.post("/v1/jobs", json=a_spec(name="another"), headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert len((await client.get("/v1/jobs")).json()["items"]) == 1
        refused = await client.post("/v1/jobs", json=a_spec(resources={"cpu": 9999}), headers={"Idempotency-Key": "b"})
        assert refused.json()["code"] == "impossible_request"
        assert (await client.post("/v1/jobs", json=a_spec(), headers={"Idempotency-Key": "b"})).status_code == 201


async def test_a_batch_comes_back_in_order_or_leaves_nothing(scene: Scene) -> None:
    async with scene.client(Role.MEMBER) as client:
        specs = [a_spec(name=f"job-{number}")["spec"] for number in range(20)]
        answer = await client.post("/v1/jobs/batch", json={"specs": specs})
        assert answer.status_code == 201
        assert [job["name"] for job in answer.json()["items"]] == [spec["name"] for spec in specs]
        wrong = await client.post("/v1/jobs/batch", json={"specs": [*specs, {**specs[0], "resources": {"cpu": 9999}}]})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "impossible_request")
        foreign = await client.post("/v1/jobs/batch", json={"specs": [*specs, {**specs[0], "project": "other"}]})
        assert (foreign.status_code, foreign.json()["code"]) == (404, "no_such_project")
        assert len((await client.get("/v1/jobs")).json()["items"]) == 20
        assert (await client.post("/v1/jobs/batch", json={"specs": []})).status_code == 422


async def test_every_problem_of_a_batch_is_named_with_the_number_of_its_document(scene: Scene) -> None:
    specs = [{"name": "a", "run": "x"}, {"name": "b", "runn": "x"}, {"run": "x", "nodes": -1, "class": "best"}]
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/jobs/batch", json={"specs": specs})
    assert answer.status_code == 422
    body = answer.json()
    assert body["code"] == "invalid_specification"
    assert {one["path"] for one in body["problems"]} == {
        "specs[1].runn", "specs[1].run", "specs[2].nodes", "specs[2].class",
    }  # fmt: skip
    assert body["problem_count"] == 4


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({}, {"run"}),
        ({"run": ""}, {"run"}),
        ({"run": "x", "resources": {"gpus": 1}}, {"resources.gpus"}),
        ({"run": "x", "nodes": "many", "env": {"B": {}}, "time_limit": "soon"}, {"nodes", "env.B", "time_limit"}),
        ({"run": "x", "class": "low", "weight": 0.9}, {"weight"}),
        ({"run": "x", "resources": {"gpu": {"fraction": 1.5}}}, {"resources.gpu.fraction"}),
        ({"run": "x", "resources": {"cpu": 1e308}}, {"resources.cpu"}),
        ({"run": "x", "nodes": 2**62}, {"nodes"}),
        ({"run": "x" * 2_000_000}, {"run"}),
        ({"run": "x", "name": "../../etc"}, {"name"}),
        ({"run": "x", "workdir": "relative"}, {"workdir"}),
        ({"run": "x", "array": "5-1"}, {"array"}),
        ({"run": "x", "secrets": {"A": {"value": 12345678}}}, {"secrets.A.value"}),
    ],
)  # fmt: skip
async def test_all_that_is_wrong_with_a_specification_is_told_at_once(
    scene: Scene, spec: dict[str, Any], paths: set[str]
) -> None:
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/jobs", json={"spec": spec})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "invalid_specification")
    assert paths <= {one["path"] for one in body["problems"]}
    assert all(one["message"].endswith(".") for one in body["problems"])
    assert len(answer.text) < 5000
    assert "12345678" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b'"x"', b"{", b'{"spec": null}', b'{"spec": []}', b'{"spec": "x"}', b'{"specs": {}}',
        b'{"spec": {"run": "x"}, "more": 1}', b'{"spec": {"run": "\\ud800"}}', b'{"spec": {"run": "a\\u0000b"}}',
        b'{"spec": {"run": "x", "params": {"n": 123456789012345678901234567890}}}',
        b'{"spec": {"run": "x", "env": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}}", b"\xff\xfe", b"NaN",
    ],
)  # fmt: skip
async def test_a_body_that_is_no_job_is_refused(scene: Scene, body: bytes) -> None:
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text


async def test_a_secret_that_is_refused_is_not_told(scene: Scene) -> None:
    hush = "hush-7f3a"
    wrong = [{"A": [hush]}, {"A": {"value": hush, "file": "f"}}, {"A": {"value": [hush]}}, {"A": {"valu": hush}},
             {"A": hush + "\x01" * 70_000}, {"1 A": hush}, {"A": {"value": {hush: 1}}}]  # fmt: skip
    async with scene.client(Role.MEMBER) as client:
        for secrets in wrong:
            answer = await client.post("/v1/jobs", json=a_spec(secrets=secrets))
            assert answer.status_code == 422, secrets
            assert hush not in answer.text, answer.text


async def test_where_a_job_belongs(scene: Scene) -> None:
    async with scene.client(Role.MEMBER) as member, scene.client(Role.OPERATOR) as operator:
        plain = {"spec": {"name": "x", "run": "y"}}
        assert (await member.post("/v1/jobs", json=plain)).json()["project"] == "own"
        other = await member.post("/v1/jobs", json=a_spec(project="other"))
        absent = await member.post("/v1/jobs", json=a_spec(project="absent"))
        assert other.status_code == absent.status_code == 404
        assert other.json()["detail"].replace("other", "") == absent.json()["detail"].replace("absent", "")
        # who keeps the fleet sees every project and works in those of their own
        assert (await operator.post("/v1/jobs", json=plain)).status_code == 403
        assert (await operator.post("/v1/jobs", json=a_spec())).status_code == 403
        async with scene.db.transaction() as tx:
            await scene.platform.tenancy.change_project(tx, "own", archived=True)
        archived = await member.post("/v1/jobs", json=a_spec())
        assert (archived.status_code, archived.json()["code"]) == (409, "project_archived")


# -- list and show -----------------------------------------------------------------------------------------------------


async def test_a_listing_in_pages_misses_nothing_and_repeats_nothing(scene: Scene) -> None:
    made = [(await scene.submit("#sim", nodes=2, resources=WHOLE)).id for _ in range(7)]
    async with scene.client(Role.MEMBER) as client:
        found: list[str] = []
        cursor: str | None = None
        while True:
            query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            page = (await client.get("/v1/jobs", params=query)).json()
            found += [job["id"] for job in page["items"]]
            if (cursor := page["next_cursor"]) is None:
                break
            await scene.submit("#sim", nodes=2, resources=WHOLE)  # what comes meanwhile stands in front
    assert found == made[::-1]


async def test_what_is_listed(scene: Scene) -> None:
    ended, foreign = await scene.submit("#sim duration=1", name="ended"), await scene.submit(project="other")
    await scene.until(ended.id)
    await scene.until(foreign.id)
    waiting = await scene.submit("#sim", nodes=2, resources=WHOLE, name="waiting")
    async with scene.client(Role.MEMBER) as member, scene.client(Role.AUDITOR) as auditor:

        async def listed(client: httpx.AsyncClient, query: str) -> list[str]:
            answer = await client.get(f"/v1/jobs?{query}")
            assert answer.status_code == 200, answer.text
            return [job["id"] for job in answer.json()["items"]]

        assert await listed(member, "") == [waiting.id]
        assert await listed(member, "all=true") == [waiting.id, ended.id]
        assert await listed(auditor, "all=true") == [waiting.id, foreign.id, ended.id]
        assert await listed(auditor, "all=true&project=other") == [foreign.id]
        assert await listed(member, f"all=true&project={scene.projects['own']}") == [waiting.id, ended.id]
        assert await listed(member, "state=COMPLETED&state=FAILED") == [ended.id]
        assert await listed(member, "name=ended&all=1") == [ended.id]
        assert await listed(member, "name=ended") == []
        for query in ("project=other", "project=absent", f"project={scene.projects['other']}"):
            assert (await member.get(f"/v1/jobs?{query}")).status_code == 404
        for query in ("state=RUNING", "limit=0", "limit=501", "limit=x", "cursor=x", "cursor=WzFd", "all=perhaps",
                      "name=" + "n" * 64, "project=" + "p" * 64):  # fmt: skip
            answer = await member.get(f"/v1/jobs?{query}")
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), query


async def test_what_is_listed_of_a_node_and_of_a_cluster(scene: Scene) -> None:
    over = await scene.submit("#sim duration=1")
    await scene.until(over.id)
    long, half = "#sim duration=forever", {"gpu": {"count": 1}}
    one, wide = await scene.submit(long, resources=half), await scene.submit(long, nodes=2, resources=half)
    foreign = await scene.submit(long, project="other", resources=half)
    for job in (one, wide, foreign):
        await scene.until(job.id, "RUNNING")
    at = {job.id: [rank.node for rank in (await scene.attempts(job.id))[-1].ranks] for job in (one, wide, foreign)}
    async with scene.client(Role.MEMBER) as member, scene.client(Role.AUDITOR) as auditor:

        async def listed(client: httpx.AsyncClient, query: str) -> list[str]:
            return [job["id"] for job in (await client.get(f"/v1/jobs?{query}")).json()["items"]]

        for node in sorted({name for names in at.values() for name in names}):
            there = sorted((job for job, names in at.items() if node in names), reverse=True)
            for query in (f"node={node}", f"node={node}&cluster={SIM}"):
                assert await listed(auditor, query) == there
            assert await listed(member, f"node={node}&all=1") == [job for job in there if job != foreign.id]
        waiting = await scene.submit("#sim", nodes=2, resources=WHOLE)
        assert waiting.id in await listed(auditor, "")
        assert await listed(auditor, f"cluster={SIM}") == [foreign.id, wide.id, one.id]
        assert await listed(member, f"cluster={SIM}&all=1&arrays=1") == [wide.id, one.id, over.id]
        for query in ("node=n", "cluster=c", f"node=n&cluster={SIM}"):
            assert (await member.get(f"/v1/jobs?{query}")).status_code == 404, query


PATHS = ["/v1/jobs/{}", "/v1/jobs/{}/logs", "/v1/jobs/{}/events", "/v1/jobs/{}/explain", "/v1/jobs/{}/metrics"]


@pytest.mark.parametrize("path", PATHS)
async def test_another_tenants_job_is_like_one_that_is_not_there(scene: Scene, path: str) -> None:
    foreign = await scene.submit("#sim duration=1", project="other")
    await scene.until(foreign.id)
    async with scene.client(Role.MEMBER) as client:
        theirs = await client.get(path.format(foreign.id))
        absent = await client.get(path.format("job_" + "0" * 26))
        assert theirs.status_code == absent.status_code == 404
        told = [answer.json() for answer in (theirs, absent)]
        assert told[0]["detail"] == told[1]["detail"]
        assert told[0]["code"] == told[1]["code"]
        for ident in HOSTILE:
            assert (await client.get(path.format(ident))).status_code in (400, 404, 422), ident


async def test_a_foreign_job_cannot_be_cancelled_and_one_that_is_only_seen_neither(scene: Scene) -> None:
    foreign = await scene.submit("#sim duration=50", project="other")
    await scene.until(foreign.id, "RUNNING")
    path = f"/v1/jobs/{foreign.id}/cancel"
    async with scene.client(Role.MEMBER) as member, scene.client(Role.MANAGER) as manager:
        assert (await member.post(path)).status_code == 404
        assert (await manager.post(path)).status_code == 403
    async with scene.client(Role.AUDITOR) as auditor, scene.client(Role.OPERATOR) as operator:
        assert (await auditor.post(path)).status_code == 403
        answer = await operator.post(path)
        assert (answer.status_code, answer.json()["reason"]) == (200, "Cancelling")


async def test_cancel_in_each_state_over_http(scene: Scene) -> None:
    running = await scene.submit("#sim duration=50")
    await scene.until(running.id, "RUNNING")
    waiting = await scene.submit("#sim", nodes=2, resources=WHOLE)
    async with scene.client(Role.MEMBER) as client:
        for body in (None, {}):
            answer = await client.post(f"/v1/jobs/{running.id}/cancel", json=body)
            assert (answer.status_code, answer.json()["state"], answer.json()["reason"]) == (
                200,
                "RUNNING",
                "Cancelling",
            )
        assert (await client.post(f"/v1/jobs/{waiting.id}/cancel")).json()["state"] == "CANCELLED"
        again = await client.post(f"/v1/jobs/{waiting.id}/cancel")
        assert (again.status_code, again.json()["code"]) == (409, "job_ended")
        assert (await client.post(f"/v1/jobs/{running.id}/cancel", json={"force": True})).status_code == 422
        await scene.until(running.id)
        assert (await client.post(f"/v1/jobs/{running.id}/cancel")).status_code == 409


# -- what it printed ---------------------------------------------------------------------------------------------------


async def printing(scene: Scene, said: bytes, run: str = "#sim duration=3", **fields: Any) -> Job:
    """Let a job end that printed this."""
    engine = scene.platform.world.clusters[SIM] = Printing(scene.cluster)  # type: ignore[index]
    engine.said = said
    job = await scene.submit(run, **fields)
    return await scene.until(job.id)


async def test_output_byte_for_byte_from_any_offset(scene: Scene) -> None:
    said = bytes(range(256)) * 20
    job = await printing(scene, said)
    async with scene.client(Role.MEMBER) as client:
        path = f"/v1/jobs/{job.id}/logs"
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.content == said
        assert (await client.get(path, params={"offset": 5000})).content == said[5000:]
        assert (await client.get(path, params={"offset": 2**63 - 1})).content == b""
        assert (await client.get(path, params={"follow": True})).content == said
        assert (await client.get(path, headers={"Last-Event-ID": "5100"})).content == said[5100:]
        for query in ({"offset": -1}, {"offset": 2**63}, {"rank": -1}, {"attempt": 0}, {"attempt": 10**9}):
            assert (await client.get(path, params=query)).status_code == 422, query
        for query in ({"attempt": 2}, {"rank": 1}, {"attempt": 1, "rank": 5}):
            absent = await client.get(path, params=query)
            assert (absent.status_code, absent.json()["code"]) == (404, "no_such_attempt"), query
        for header in ("x", "-1", "٣", "9" * 5000, str(2**63)):
            answer = await client.get(path, headers={"Last-Event-ID": header.encode()})
            assert answer.status_code == 422, header


async def test_output_of_each_attempt_and_rank(scene: Scene) -> None:
    run = "#sim exit=1 print=one\n#sim rank=1 exit=0 print=two"
    job = await scene.submit(run, nodes=2, retry={"limit": 1, "on": ["unknown"]})
    await scene.until(job.id)
    async with scene.client(Role.MEMBER) as client:
        path = f"/v1/jobs/{job.id}/logs"
        assert (await client.get(path)).text == "one\n"
        assert (await client.get(path, params={"rank": 1})).text == "two\n"
        assert (await client.get(path, params={"rank": 1, "attempt": 1})).text == "two\n"


async def test_output_as_events_goes_on_after_the_last_one_that_came_and_cuts_no_character(scene: Scene) -> None:
    said = ("é水" * 500 + "\nend\r\n").encode()  # pieces of 1000 bytes cut characters
    job = await printing(scene, said + b"\xe6\xb0")
    async with scene.client(Role.MEMBER) as client:
        path, accept = f"/v1/jobs/{job.id}/logs", {"Accept": "text/event-stream"}
        events = await events_of(await client.get(path, headers=accept))
        assert len(events) > 2
        assert {event["event"] for event in events} == {"log"}
        assert "".join(event["data"] for event in events[:-1]) == "é水" * 500 + "\nend\n"
        assert events[-1]["data"] == "\ufffd"
        rest = await events_of(await client.get(path, headers={**accept, "Last-Event-ID": events[0]["id"]}))
        assert rest == events[1:]


async def test_following_ends_with_the_attempt_or_with_a_job_that_never_had_one(scene: Scene) -> None:
    job = await scene.submit("#sim duration=4 print=hello")
    await scene.until((await scene.submit("#sim duration=forever", resources=WHOLE)).id, "RUNNING")
    dropped = await scene.submit("#sim", nodes=2, resources=WHOLE)

    async def turning() -> None:
        for _ in range(20):
            await scene.turn()
            await asyncio.sleep(0)
        await scene.cancel(dropped.id)

    async with scene.client(Role.MEMBER) as client:
        query = {"follow": True}
        answer, nothing, _ = await asyncio.gather(
            client.get(f"/v1/jobs/{job.id}/logs", params=query),
            client.get(f"/v1/jobs/{dropped.id}/logs", params=query), turning(),
        )  # fmt: skip
    assert (answer.text, nothing.text) == ("hello\n", "")


async def test_an_engine_that_is_away_is_told_as_such_and_a_follower_waits_for_it(scene: Scene) -> None:
    job = await scene.submit("#sim duration=2 print=hello")
    await scene.until(job.id)
    scene.cluster.set_faults(Faults(before=1.0))
    path = f"/v1/jobs/{job.id}/logs"

    async def back() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        scene.cluster.set_faults(Faults())

    async with scene.client(Role.MEMBER) as client:
        away = await client.get(path)
        assert (away.status_code, away.json()["code"]) == (503, "engine_unavailable")
        followed, _ = await asyncio.gather(client.get(path, params={"follow": True}), back())
    assert (followed.status_code, followed.text) == (200, "hello\n")


# -- what happened to it -----------------------------------------------------------------------------------------------


async def test_the_events_of_a_job_from_its_submission_to_its_end(scene: Scene) -> None:
    job = await scene.submit("#sim duration=1000", retry={"limit": 1})

    async def turning() -> None:
        await scene.until(job.id, "RUNNING")
        scene.cluster.kill(scene.key(job))
        await scene.until(job.id, "PENDING")
        await scene.until(job.id, "RUNNING")
        await scene.cancel(job.id)
        await scene.until(job.id)

    async with scene.client(Role.MEMBER) as client:
        path = f"/v1/jobs/{job.id}/events"
        answer, _ = await asyncio.gather(client.get(path), turning())
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = await events_of(answer)
        kinds = ["JobSubmitted", "JobStarted", "JobRetried", "JobStarted", "JobCancelAsked", "JobEnded"]
        assert [event["event"] for event in events] == kinds
        ids = [int(event["id"]) for event in events]
        assert ids == sorted(ids)
        last = json.loads(events[-1]["data"])
        assert (last["subject"], last["payload"]["state"], last["payload"]["attempt"]) == (job.id, "CANCELLED", 2)
        rest = await events_of(await client.get(path, headers={"Last-Event-ID": events[2]["id"]}))
        assert rest == events[3:]
        assert await events_of(await client.get(path, params={"after": ids[2]})) == events[3:]
        # whoever comes back after the end is not kept waiting for another
        assert await events_of(await client.get(path, headers={"Last-Event-ID": events[-1]["id"]})) == []
        assert await events_of(await client.get(path, params={"after": 2**63 - 1})) == []
        assert (await client.get(path, params={"after": -1})).status_code == 422
        assert (await client.get(path, headers={"Last-Event-ID": "1" * 5000})).status_code == 422


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_the_queue_in_pages_with_positions_among_all(scene: Scene) -> None:
    made = []
    for number in range(5):
        project = "other" if number == 1 else "own"
        made.append(await scene.submit("#sim", nodes=2, resources=WHOLE, project=project))
    async with scene.client(Role.AUDITOR) as auditor, scene.client(Role.MEMBER) as member:
        blocker = await scene.submit("#sim duration=forever", **{"class": "core"}, resources=WHOLE)
        await scene.until(blocker.id, "RUNNING")
        await scene.turn()
        rows: list[Any] = []
        cursor = None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await auditor.get("/v1/queue", params=query)).json()
            rows += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        waiting = [job for job in made if (await scene.job(job.id)).waits]
        assert [row["id"] for row in rows] == [job.id for job in waiting]
        assert [row["position"] for row in rows] == list(range(1, len(waiting) + 1))
        assert all(row["reason"] and row["detail"] for row in rows)
        own = (await member.get("/v1/queue")).json()["items"]
        assert [row["id"] for row in own] == [job.id for job in waiting if job.project_id == scene.projects["own"]]
        assert {row["position"] for row in own} < {row["position"] for row in rows} or len(waiting) == len(own)
        assert (await member.get("/v1/queue?project=other")).status_code == 404
        assert (await auditor.get("/v1/queue?project=other")).status_code == 200
        assert (await member.get("/v1/queue?cursor=WyJhIl0")).status_code == 422


async def test_explain_says_why_it_waits_and_why_it_failed(scene: Scene) -> None:
    failed = await scene.submit("#sim exit=3")
    await scene.until(failed.id)
    blocker = await scene.submit("#sim duration=forever", resources=WHOLE, nodes=2)
    await scene.until(blocker.id, "RUNNING")
    waiting = await scene.submit("#sim", resources=WHOLE)
    await scene.turn()
    async with scene.client(Role.MEMBER) as client:
        why = (await client.get(f"/v1/jobs/{waiting.id}/explain")).json()
        assert (why["topic"], why["cause"]) == ("waits", "Resources")
        assert blocker.id in why["text"]
        why = (await client.get(f"/v1/jobs/{failed.id}/explain")).json()
        assert why["topic"] == "failed"
        assert any(
            "exit code 3" in exhibit["line"] or "exited with 3" in exhibit["line"] for exhibit in why["evidence"]
        )


async def test_metrics_of_a_job_and_of_its_attempts(scene: Scene) -> None:
    job = await scene.submit("#sim exit=1 print=loss=0.5", retry={"limit": 1, "on": ["unknown"]})
    await scene.until(job.id)
    await scene.turn()
    async with scene.client(Role.MEMBER) as client:
        path = f"/v1/jobs/{job.id}/metrics"
        (metric,) = (await client.get(path)).json()["metrics"]
        assert (metric["name"], metric["value"], metric["attempt"]) == ("loss", 0.5, 2)
        point = {"points": [{"name": "score", "step": 1, "value": 0.25}]}
        assert (await client.post(path, json=point)).status_code == 201
        assert (await client.post(path, json={**point, "attempt": 3})).status_code == 422
        assert {one["name"] for one in (await client.get(path)).json()["metrics"]} == {"loss", "score"}


async def test_what_is_held_is_seen_in_the_ledger_by_those_who_may(scene: Scene) -> None:
    job = await scene.submit("#sim duration=forever", resources={"gpu": {"fraction": 0.25}}, project="other")
    await scene.until(job.id, "RUNNING")
    async with scene.client(Role.OPERATOR) as operator, scene.client(Role.MEMBER) as member:
        rows = (await operator.get("/v1/allocations", params={"job": job.id})).json()["items"]
        assert sum(row["gpu_milli"] for row in rows) == 250
        assert (await member.get("/v1/allocations", params={"job": job.id})).json()["items"] == []
    assert await scene.held() == [AttemptKey(job.id, 1)]
