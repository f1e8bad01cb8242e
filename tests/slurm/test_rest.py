"""slurmrestd that is away, that answers by half, whose answer is lost, or that no longer takes the token."""

from __future__ import annotations

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dujiang.engines.contract import DeviceShare, EngineRefused, EngineUnavailable, Phase, RankPlacement
from dujiang.engines.slurm.engine import SlurmEngine
from tests.contract.harness import Exits, Waits
from tests.slurm.cluster import Cluster
from tests.slurm.harness import SlurmHarness
from tests.slurm.proxy import Proxy

pytestmark = pytest.mark.slurm


def token_file(folder: Path, cluster: Cluster, lifespan_s: int = 3600, mode: int = 0o600) -> Path:
    """Write a token as `scontrol` prints it."""
    path = folder / "token"
    path.write_text(cluster.client("scontrol", "token", f"lifespan={lifespan_s}"))
    path.chmod(mode)
    return path


@asynccontextmanager
async def over_rest(folder: Path, cluster: Cluster, url: str, **settings: object) -> AsyncIterator[SlurmHarness]:
    """Yield a harness whose engine asks over REST alone."""
    token = settings.pop("rest_token_file", None) or str(token_file(folder, cluster))
    harness = SlurmHarness(
        folder, cluster, rest_url=url, rest_token_file=token, commands=str(folder / "none"), **settings
    )
    yield harness
    await harness.clean()


async def test_a_lost_answer_to_a_submission_starts_nothing_twice(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with Proxy(rest).running() as proxy, over_rest(tmp_path, cluster, proxy.url) as harness:
        await harness.engine.inventory()
        launch = harness.launch(Waits(2))
        proxy.lose(b"POST ")
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await harness.engine.submit(launch)
        await harness.engine.submit(launch)
        await harness.ready(launch.key)
        assert len([line for line in proxy.asked if line.startswith(b"POST")]) == 1  # it was found, not made again
        harness.release()
        assert (await harness.ended(launch.key)).exit_code == 2
        assert harness.runs(launch.key) == 1


async def test_half_an_answer_is_none(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with Proxy(rest).running() as proxy, over_rest(tmp_path, cluster, proxy.url) as harness:
        key = await harness.submit(Waits(3))
        await harness.ready(key)
        for asked, ask in ((b"/nodes", harness.engine.inventory), (b"/jobs", lambda: _fresh(harness, key))):
            proxy.halve(b"GET /slurm/v0.0.38" + asked)
            with pytest.raises(EngineUnavailable, match="half an answer"):
                await ask()
        assert (await harness.engine.observe([key]))[key].phase is Phase.RUNNING
        harness.release()
        assert (await harness.ended(key)).exit_code == 3


async def _fresh(harness: SlurmHarness, key: object) -> object:
    await harness.restart()
    return await harness.engine.observe([key])  # type: ignore[list-item]


async def test_a_slurmrestd_that_is_away_loses_nothing(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with over_rest(tmp_path, cluster, rest) as harness:
        key = await harness.submit(Waits(5))
        await harness.ready(key)
        late = harness.launch(Exits(6), job="job_late")
        cluster.stop("slurmrestd")
        try:
            await harness.restart()
            for ask in (lambda: harness.engine.observe([key]), harness.engine.inventory):
                with pytest.raises(EngineUnavailable, match=r"slurmrestd at .* does not answer"):
                    await ask()
            with pytest.raises(EngineUnavailable):
                await harness.engine.submit(late)
        finally:
            assert cluster.start_rest(urlsplit(rest).port or 0) == rest
        assert (await harness.engine.observe([key]))[key].phase is Phase.RUNNING
        await harness.engine.submit(late)
        harness.release()
        assert ((await harness.ended(key)).exit_code, (await harness.ended(late.key)).exit_code) == (5, 6)
        assert (harness.runs(key), harness.runs(late.key)) == (1, 1)


async def test_a_controller_that_is_away_behind_slurmrestd(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with over_rest(tmp_path, cluster, rest) as harness:
        await harness.engine.inventory()
        cluster.stop("slurmctld")
        try:
            with pytest.raises(EngineUnavailable, match="Slurm does not answer"):
                await harness.engine.inventory()
            with pytest.raises(EngineUnavailable, match="Slurm does not answer"):
                await harness.engine.submit(harness.launch(Exits(1)))
        finally:
            cluster.start_controller()
        cluster.wait("the nodes", lambda: set(cluster.states().values()) == {"idle"})


async def test_a_token_that_has_expired_is_told_and_a_new_one_taken(
    tmp_path: Path, cluster: Cluster, rest: str
) -> None:
    path = token_file(tmp_path, cluster, lifespan_s=1)
    async with over_rest(tmp_path, cluster, rest, rest_token_file=str(path)) as harness:
        await harness.clock.sleep(1.5)
        with pytest.raises(EngineUnavailable, match="has expired"):
            await harness.engine.inventory()
        token_file(tmp_path, cluster)
        assert len(await harness.engine.inventory()) == 3


async def test_a_token_that_slurm_does_not_take_is_told(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    harness = SlurmHarness(tmp_path, cluster, rest_url=rest, rest_key_file=str(other), commands=str(tmp_path / "none"))
    with pytest.raises(EngineUnavailable, match=r"refuses our token|does not accept our token"):
        await harness.engine.inventory()
    await harness.engine.close()


async def test_what_slurm_refuses_over_rest_is_refused(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with over_rest(tmp_path, cluster, rest, qos="", account="", partition="") as harness:
        launch = harness.launch(Exits(0))
        ranks = (RankPlacement(0, harness.node, 65_000, 64 << 20),)
        object.__setattr__(launch, "ranks", ranks)
        with pytest.raises(EngineRefused, match="Slurm refuses the job"):
            await harness.engine.submit(launch)
        assert await harness.engine.attempts() == []


async def test_a_node_that_is_closed_lets_the_job_wait(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    """Over v0.0.38 such an answer has a job and an error: it was made all the same."""
    async with over_rest(tmp_path, cluster, rest) as harness:
        await harness.engine.inventory()
        cluster.client("scontrol", "update", f"NodeName={harness.node}", "State=DRAIN", "Reason=fans")
        try:
            key = await harness.submit(Exits(3))
            assert (await harness.engine.observe([key]))[key].phase is Phase.PENDING
        finally:
            cluster.client("scontrol", "update", f"NodeName={harness.node}", "State=RESUME")
        assert (await harness.ended(key)).exit_code == 3
        assert harness.runs(key) == 1


async def test_devices_and_environment_over_rest(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with over_rest(tmp_path, cluster, rest) as harness:
        launch = harness.launch_text("echo $CUDA_VISIBLE_DEVICES $HOME $WORLD_SIZE $RANK $SLURMD_NODENAME")
        shares = (DeviceShare("h100-2", 2, 1000, 0), DeviceShare("h100-3", 3, 1000, 0))
        ranks = tuple(RankPlacement(nth, node, 500, 64 << 20, devices=shares) for nth, node in enumerate(("n3", "n1")))
        object.__setattr__(launch, "ranks", ranks)
        await harness.engine.submit(launch)
        seen = await harness.ended(launch.key)
        assert seen.exit_code == 0, seen
        home = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
        for nth, node in enumerate((b"n3", b"n1")):
            printed = (await harness.printed(launch.key, rank=nth)).split()
            assert printed == [b"0,1", home, b"2", b"%d" % nth, node]


async def test_without_commands_a_node_is_closed_to_us_alone(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    async with over_rest(tmp_path, cluster, rest) as harness:
        assert isinstance(harness.engine, SlurmEngine)
        await harness.engine.cordon("n2", "ours alone")
        facts = {one.name: one for one in await harness.engine.inventory()}["n2"]
        assert (facts.cordoned, facts.reason, cluster.states()["n2"]) == (True, "ours alone", "idle")
        launch = harness.launch(Exits(0))
        object.__setattr__(launch, "ranks", (RankPlacement(0, "n2", 500, 64 << 20),))
        with pytest.raises(EngineRefused, match="ours alone"):
            await harness.engine.submit(launch)
        await harness.engine.uncordon("n2")


async def test_with_commands_beside_it_the_queue_is_listed_by_squeue(
    tmp_path: Path, cluster: Cluster, rest: str
) -> None:
    async with Proxy(rest).running() as proxy:
        harness = SlurmHarness(tmp_path, cluster, rest_url=proxy.url, rest_key_file=str(cluster.jwt_key))
        key = await harness.submit(Waits(3))
        await harness.ready(key)
        await harness.engine.cordon("n2", "fans")  # v0.0.38 cannot
        nodes = {one.name: one for one in await harness.engine.inventory()}
        assert (nodes["n2"].reason, cluster.states()["n2"].rstrip("*")) == ("fans", "drained")
        assert nodes["n1"].labels["dujiang.io/switch"] == "s1"
        harness.release()
        assert (await harness.ended(key)).exit_code == 3
        asked = {line.split()[1].split(b"?")[0].removeprefix(b"/slurm/v0.0.38") for line in proxy.asked}
        assert {b"/nodes", b"/job/submit"} <= asked
        assert b"/jobs" not in asked
        await harness.clean()


async def test_the_key_must_be_kept_from_others(tmp_path: Path, cluster: Cluster, rest: str) -> None:
    path = token_file(tmp_path, cluster, mode=0o640)
    harness = SlurmHarness(tmp_path, cluster, rest_url=rest, rest_token_file=str(path))
    with pytest.raises(EngineUnavailable, match="chmod 600"):
        await harness.engine.inventory()
    await harness.engine.close()
