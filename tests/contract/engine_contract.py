"""The promises of `engines.contract`, as tests that every engine passes. A subclass supplies the `harness` fixture."""

from __future__ import annotations

import asyncio
import signal

import pytest

from dujiang.engines.contract import AttemptKey, Checkpointing, End, Isolation, NodeRefused, Phase
from dujiang.engines.outputs import OutputMissing, OutputUnreachable
from tests.contract.harness import ByRank, Dies, Exits, Grows, Harness, Saves, Stubborn, Waits

UNKNOWN = AttemptKey("job_unknown", 1)


class EngineContract:
    """Holds for every engine, the simulated one too."""

    async def test_it_says_what_it_is_and_has(self, harness: Harness) -> None:
        capabilities = await harness.engine.capabilities()
        nodes = await harness.engine.inventory()
        assert capabilities.kind == harness.engine.kind
        assert capabilities.simulated or capabilities.version[:64].strip()
        assert capabilities.limits_by
        assert harness.node in [node.name for node in nodes]
        assert len({node.name for node in nodes}) == len(nodes)
        for node in nodes:
            assert node.cpu_milli > 0
            assert node.memory_bytes > 0
            assert len({device.name for device in node.devices}) == len(node.devices)

    @pytest.mark.parametrize("code", [0, 1, 3, 255])
    async def test_an_exit_code_is_exact(self, harness: Harness, code: int) -> None:
        seen = await harness.ended(await harness.submit(Exits(code)))
        assert (seen.end, seen.exit_code, seen.signal, seen.rank) == (End.EXITED, code, None, 0)
        assert seen.started_at is not None
        assert seen.finished_at is not None
        assert seen.started_at <= seen.finished_at
        assert seen.node == harness.node

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
    async def test_a_signal_is_exact(self, harness: Harness, number: int) -> None:
        seen = await harness.ended(await harness.submit(Dies(number)))
        assert (seen.end, seen.exit_code, seen.signal) == (End.SIGNALED, None, number)

    async def test_running_has_a_start_and_no_end(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.ready(key)
        seen = (await harness.engine.observe([key]))[key]
        assert seen.phase is Phase.RUNNING
        assert seen.started_at is not None
        assert (seen.end, seen.finished_at, seen.exit_code) == (None, None, None)
        assert seen.limits_by == (await harness.engine.capabilities()).limits_by

    async def test_use_is_told_of_what_runs_alone(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.ready(key)
        over = await harness.ended(await harness.submit(Exits(), job="job_over"))
        found = await harness.engine.usage([key, over.key, UNKNOWN])
        assert list(found) == [key]
        assert found[key].key == key
        assert found[key].devices is None  # it was given none
        harness.release()
        await harness.ended(key)
        assert await harness.engine.usage([key]) == {}

    async def test_submitting_twice_runs_once(self, harness: Harness) -> None:
        launch = harness.launch(Waits(4))
        await asyncio.gather(*[harness.engine.submit(launch) for _ in range(5)])
        await harness.ready(launch.key)
        await harness.engine.submit(launch)
        harness.release()
        seen = await harness.ended(launch.key)
        await harness.engine.submit(launch)
        assert (await harness.engine.observe([launch.key]))[launch.key] == seen
        await harness.engine.forget(launch.key)
        await harness.engine.submit(launch)
        assert seen.exit_code == 4
        assert harness.runs(launch.key) == 1

    async def test_attempts_of_one_job_are_apart(self, harness: Harness) -> None:
        first = await harness.ended(await harness.submit(Exits(1), number=1))
        second = await harness.ended(await harness.submit(Exits(2), number=2))
        assert (first.exit_code, second.exit_code) == (1, 2)
        assert set(await harness.engine.attempts()) == {first.key, second.key}

    async def test_what_is_unknown_is_left_out_and_quiet(self, harness: Harness) -> None:
        assert await harness.engine.observe([UNKNOWN]) == {}
        await harness.engine.cancel(UNKNOWN)
        await harness.engine.signal(UNKNOWN, signal.SIGTERM)
        await harness.engine.forget(UNKNOWN)
        assert [chunk async for chunk in harness.engine.logs(UNKNOWN, follow=True)] == []
        assert UNKNOWN not in await harness.engine.attempts()

    async def test_a_wrong_node_is_refused(self, harness: Harness) -> None:
        launch = harness.launch(Exits())
        for rank in launch.ranks:
            object.__setattr__(rank, "node", "no-such-node")
        with pytest.raises(NodeRefused, match="no-such-node"):
            await harness.engine.submit(launch)
        assert await harness.engine.observe([launch.key]) == {}

    async def test_cancel_stops(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.ready(key)
        await harness.engine.cancel(key)
        await harness.engine.cancel(key)
        assert (await harness.ended(key)).end is End.STOPPED

    async def test_cancel_right_after_submit_stops(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.engine.cancel(key)
        assert (await harness.ended(key)).end is End.STOPPED

    async def test_cancel_after_the_end_changes_nothing(self, harness: Harness) -> None:
        key = await harness.submit(Exits(7))
        seen = await harness.ended(key)
        await harness.engine.cancel(key)
        await harness.engine.signal(key, signal.SIGTERM)
        assert (await harness.engine.observe([key]))[key] == seen

    async def test_a_stop_lets_the_program_save(self, harness: Harness) -> None:
        checkpoint = Checkpointing(path=f"/tmp/{harness.node}-checkpoints", signal=signal.SIGUSR1)
        key = await harness.submit(Saves(signal.SIGUSR1), checkpoint=checkpoint, grace_s=15.0)
        await harness.ready(key)
        await harness.engine.cancel(key)
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code) == (End.STOPPED, 0)
        assert b"saved" in await harness.printed(key)

    async def test_a_stubborn_program_is_killed_when_its_grace_is_over(self, harness: Harness) -> None:
        key = await harness.submit(Stubborn())
        await harness.ready(key)
        asked = harness.clock.monotonic_s()
        await harness.engine.cancel(key, grace_s=0.6)
        seen = await harness.ended(key)
        took = harness.clock.monotonic_s() - asked
        assert (seen.end, seen.signal) == (End.STOPPED, signal.SIGKILL)
        assert took >= 0.6

    async def test_a_shorter_grace_shortens_and_a_longer_one_does_not_lengthen(self, harness: Harness) -> None:
        key = await harness.submit(Stubborn(), grace_s=600.0)
        await harness.ready(key)
        asked = harness.clock.monotonic_s()
        await harness.engine.cancel(key)
        await harness.engine.cancel(key, grace_s=0.3)
        await harness.engine.cancel(key, grace_s=500.0)
        await harness.ended(key)
        assert harness.clock.monotonic_s() - asked < 10.0

    async def test_the_time_limit_is_kept(self, harness: Harness) -> None:
        key = await harness.submit(Waits(), time_limit_s=0.4)
        seen = await harness.ended(key)
        assert seen.end is End.TIME_LIMIT
        assert seen.started_at is not None
        assert seen.finished_at is not None
        assert (seen.finished_at - seen.started_at).total_seconds() >= 0.39

    async def test_a_signal_reaches_the_program(self, harness: Harness) -> None:
        key = await harness.submit(Saves(signal.SIGUSR2, code=6))
        await harness.ready(key)
        await harness.engine.signal(key, signal.SIGUSR2)
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code) == (End.EXITED, 6)

    async def test_a_failed_setup_starts_nothing(self, harness: Harness) -> None:
        key = await harness.submit(Exits(), setup=harness.body(Exits(9)))
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code) == (End.SETUP_FAILED, 9)
        assert harness.runs(key) == 0

    async def test_a_gang_ends_when_all_its_ranks_have(self, harness: Harness) -> None:
        key = await harness.submit(ByRank((Exits(0, "one"), Exits(0, "two"), Exits(0, "three"))), ranks=3)
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code) == (End.EXITED, 0)
        assert [await harness.printed(key, rank=rank) for rank in range(3)] == [b"one\n", b"two\n", b"three\n"]

    async def test_a_rank_that_fails_ends_the_gang(self, harness: Harness) -> None:
        key = await harness.submit(ByRank((Stubborn(), Exits(5), Waits())), ranks=3, grace_s=0.5)
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code, seen.rank) == (End.EXITED, 5, 1)

    async def test_memory_over_the_limit_is_called_that(self, harness: Harness) -> None:
        seen = await harness.ended(await harness.submit(Grows()))
        if (await harness.engine.capabilities()).limits is Isolation.COUNTED_ONLY:
            assert seen.end in (End.EXITED, End.SIGNALED)
            assert seen.exit_code != 0
        else:
            assert seen.end is End.OUT_OF_MEMORY

    async def test_output_is_read_from_any_offset(self, harness: Harness) -> None:
        key = await harness.submit(Exits(0, "0123456789"))
        await harness.ended(key)
        assert await harness.printed(key) == b"0123456789\n"
        assert await harness.printed(key, offset=7) == b"789\n"
        assert await harness.printed(key, offset=1000) == b""

    async def test_a_negative_offset_counts_from_the_end(self, harness: Harness) -> None:
        key = await harness.submit(Exits(0, "0123456789"))
        await harness.ended(key)
        assert await harness.printed(key, offset=-4) == b"789\n"
        assert await harness.printed(key, offset=-1000) == b"0123456789\n"
        assert [(chunk.offset, chunk.data) async for chunk in harness.engine.logs(key, offset=-4)] == [(7, b"789\n")]

    async def test_following_from_near_the_end_goes_on_with_what_comes(self, harness: Harness) -> None:
        key = await harness.submit(Saves(signal.SIGUSR2))
        await harness.ready(key)
        chunks = []
        async for chunk in harness.engine.logs(key, offset=-3, follow=True):
            if not chunks:
                assert (chunk.offset, chunk.data) == (3, b"dy\n")
                await harness.engine.signal(key, signal.SIGUSR2)
            chunks.append(chunk.data)
        assert b"".join(chunks) == b"dy\nsaved\n"

    async def test_following_ends_with_the_attempt(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        chunks = []
        async for chunk in harness.engine.logs(key, follow=True):
            assert chunk.offset == sum(len(data) for data in chunks)
            chunks.append(chunk.data)
            harness.release()
        assert b"".join(chunks) == b"ready\n"
        assert (await harness.ended(key)).exit_code == 0

    async def test_a_new_engine_finds_what_runs_and_learns_its_end(self, harness: Harness) -> None:
        key = await harness.submit(Waits(8))
        await harness.ready(key)
        before = (await harness.engine.observe([key]))[key]
        await harness.restart()
        assert (await harness.engine.observe([key]))[key] == before
        assert await harness.engine.attempts() == [key]
        await harness.engine.submit(harness.launch(Waits(8)))
        harness.release()
        seen = await harness.ended(key)
        assert (seen.end, seen.exit_code) == (End.EXITED, 8)
        assert harness.runs(key) == 1

    async def test_a_new_engine_knows_an_end_that_came_while_there_was_none(self, harness: Harness) -> None:
        key = await harness.submit(Exits(3))
        seen = await harness.ended(key)
        await harness.restart()
        assert (await harness.engine.observe([key]))[key] == seen

    async def test_a_new_engine_can_stop_what_runs(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.ready(key)
        await harness.restart()
        await harness.engine.cancel(key)
        assert (await harness.ended(key)).end is End.STOPPED

    async def test_forget_drops_the_record_and_keeps_the_output(self, harness: Harness) -> None:
        key = await harness.submit(Exits(0, "kept"))
        await harness.ended(key)
        await harness.engine.forget(key)
        assert await harness.engine.observe([key]) == {}
        assert await harness.engine.attempts() == []
        assert await harness.printed(key) == b"kept\n"
        await harness.engine.forget(key)
        unknown = OutputMissing if harness.reads_outputs else OutputUnreachable
        assert await harness.why_not(UNKNOWN, "model.onnx") is unknown
        with pytest.raises(unknown, match=r"\w \w"):
            await harness.engine.outputs(UNKNOWN)
        if harness.reads_outputs:
            assert await harness.engine.outputs(key) == []

    async def test_forget_leaves_alone_what_runs(self, harness: Harness) -> None:
        key = await harness.submit(Waits(2))
        await harness.ready(key)
        await harness.engine.forget(key)
        assert await harness.engine.attempts() == [key]
        harness.release()
        assert (await harness.ended(key)).exit_code == 2

    async def test_a_cordon_shows_and_outlives_the_engine(self, harness: Harness) -> None:
        await harness.engine.cordon(harness.node, "new fans")
        await harness.restart()
        node = {node.name: node for node in await harness.engine.inventory()}[harness.node]
        assert (node.cordoned, node.reason) == (True, "new fans")
        with pytest.raises(NodeRefused, match="closed to new work: new fans"):
            await harness.submit(Exits(1), job="job_late")
        await harness.engine.uncordon(harness.node)
        node = {node.name: node for node in await harness.engine.inventory()}[harness.node]
        assert not node.cordoned
        assert (await harness.ended(await harness.submit(Exits(1)))).exit_code == 1

    async def test_a_drain_stops_what_runs(self, harness: Harness) -> None:
        keys = [await harness.submit(Waits(), job=f"job_{nth}") for nth in range(3)]
        for key in keys:
            await harness.ready(key)
        await harness.engine.drain(harness.node, "repair", grace_s=2.0)
        assert [(await harness.ended(key)).end for key in keys] == [End.STOPPED] * 3
        node = {node.name: node for node in await harness.engine.inventory()}[harness.node]
        assert node.cordoned

    async def test_changed_waits_no_longer_than_told(self, harness: Harness) -> None:
        key = await harness.submit(Waits())
        await harness.ready(key)
        while await harness.engine.changed(0.0):
            await harness.engine.observe([key])
        asked = harness.clock.monotonic_s()
        assert await harness.engine.changed(0.4) is False
        assert 0.4 <= harness.clock.monotonic_s() - asked < 5.0

    async def test_many_attempts_all_end_once(self, harness: Harness) -> None:
        keys = [await harness.submit(Exits(nth % 7), job=f"job_{nth}") for nth in range(20)]
        codes = [(await harness.ended(key)).exit_code for key in keys]
        assert codes == [nth % 7 for nth in range(20)]
        assert [harness.runs(key) for key in keys] == [1] * 20
        assert sorted(await harness.engine.attempts()) == sorted(keys)
