"""`POST /v1/convert`: what the command line can, the API can."""

from __future__ import annotations

from dujiang.jobs.spec import parse, read
from dujiang.tenancy.domain import Role
from tests.jobs.converting.building import a_pod, a_script
from tests.platforms import Scene


async def test_work_of_others_is_converted_and_can_be_submitted(scene: Scene) -> None:
    text = a_script("--mem=1G", "--mail-type=END", "--time=10", body="srun #sim")
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/convert", json={"text": text, "name": "mine", "workdir": "/w"})
        assert answer.status_code == 200
        found = answer.json()
        (item,) = found["items"]
        assert read(item["spec"]) == parse(item["yaml"])[0] == parse(found["yaml"])[0]
        assert (item["spec"]["name"], item["spec"]["workdir"], item["source"]) == ("mine", "/w", "sbatch script")
        told = {note["path"]: note for note in item["notes"]}
        assert (told["--mail-type"]["line"], told["--mail-type"]["kept"]) == (3, False)
        made = await client.post("/v1/jobs", json={"spec": {**item["spec"], "project": "own"}})
        assert made.status_code == 201


async def test_what_cannot_be_converted_is_told_with_its_line(scene: Scene) -> None:
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/convert", json={"text": a_pod(containers=[])})
        assert answer.status_code == 422
        (problem,) = answer.json()["problems"]
        assert (problem["path"], problem["line"] > 0) == ("spec.containers", True)
        assert answer.json()["code"] == "invalid_specification"
        assert (await client.post("/v1/convert", json={"text": "x" * (2**20 + 1)})).status_code == 422
        assert (await client.post("/v1/convert", json={"text": ""})).status_code == 422


async def test_of_our_own_words_the_same_comes_back(scene: Scene) -> None:
    async with scene.client(Role.MEMBER) as client:
        answer = await client.post("/v1/convert", json={"text": "name: x\nrun: y\n"})
        assert answer.json()["items"][0]["spec"]["run"] == "y"
