"""Mirrors: against a real API server that stops, hangs and comes back, and against any order of news."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes import mirror as module
from dujiang.engines.kubernetes.api import Api
from dujiang.engines.kubernetes.errors import Forbidden, Gone
from dujiang.engines.kubernetes.mirror import Mirror
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import ManualClock, SystemClock
from tests.kubernetes.cluster import Cluster

real = pytest.mark.kubernetes
MAPS = "/api/v1/namespaces/default/configmaps"


def value_of(obj: dict[str, Any]) -> str | None:
    """Keep the value `v`; nothing of objects without data."""
    return str(obj["data"]["v"]) if obj.get("data") else None


def an_object(name: str, version: int, value: str | None = "1", namespace: str = "default") -> dict[str, Any]:
    told = {"name": name, "namespace": namespace, "resourceVersion": str(version)}
    return {"metadata": told, **({"data": {"v": value}} if value is not None else {})}


# What comes from where, in which order


class Script:
    """Stands in for the API: lists what it is told, and streams what is put into its queue."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.lists: list[Any] = [([], "0")]
        self.news: asyncio.Queue[Any] = asyncio.Queue()
        self.watched: list[str] = []

    async def list(self, _path: str, reduce: Callable[[Any], Any], **_: str) -> tuple[list[Any], str]:
        found = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(found, Exception):
            raise found
        objects, version = found
        return [kept for obj in objects if (kept := reduce(obj)) is not None], version

    async def watch(
        self, _path: str, *, version: str, opened: Callable[[], None], **_: Any
    ) -> AsyncGenerator[tuple[str, Any], None]:
        self.watched.append(version)
        opened()
        while True:
            told = await self.news.get()
            if told is None:
                return
            if isinstance(told, Exception):
                raise told
            yield told

    def mirror(self, **more: Any) -> Mirror[str]:
        return Mirror(cast(Api, self), MAPS, value_of, clock=self.clock, stale_after_s=60, **more)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def shown(mirror: Mirror[str]) -> dict[str, str]:
    await settle()
    return dict(await mirror.fresh())


async def test_what_is_listed_and_then_told_is_shown() -> None:
    script = Script()
    script.lists = [([an_object("a", 3), an_object("b", 4), an_object("empty", 5, None)], "7")]
    mirror = script.mirror()

    assert await shown(mirror) == {"default/a": "1", "default/b": "1"}
    before = await mirror.fresh()
    version = mirror.version
    for told in (("MODIFIED", an_object("a", 8, "2")), ("DELETED", an_object("b", 9)), ("ADDED", an_object("c", 10))):
        script.news.put_nowait(told)
    assert await mirror.wait(version, 5)
    assert await shown(mirror) == {"default/a": "2", "default/c": "1"}
    assert dict(before) == {"default/a": "1", "default/b": "1"}, "what was given out changes no more"
    assert not await mirror.wait(mirror.version, 0.01)
    await mirror.close()
    assert script.watched == ["7"]


async def test_what_is_of_no_interest_any_more_is_not_shown() -> None:
    script = Script()
    script.lists = [([an_object("a", 3)], "7")]
    mirror = script.mirror()
    await mirror.fresh()

    script.news.put_nowait(("MODIFIED", an_object("a", 8, None)))

    assert await shown(mirror) == {}
    mirror.put(an_object("a", 7, "late"))
    assert await shown(mirror) == {}
    await mirror.close()


async def test_our_own_write_is_seen_at_once_and_never_over_what_is_newer() -> None:
    script = Script()
    script.lists = [([], "7")]
    mirror = script.mirror()
    await mirror.fresh()

    mirror.put(an_object("a", 9, "9"))
    assert dict(await mirror.fresh()) == {"default/a": "9"}
    mirror.put(an_object("a", 8, "8"))
    assert dict(await mirror.fresh()) == {"default/a": "9"}
    script.news.put_nowait(("ADDED", an_object("a", 8, "8")))  # the watch comes behind
    assert await shown(mirror) == {"default/a": "9"}
    script.news.put_nowait(("DELETED", an_object("a", 10)))
    assert await shown(mirror) == {}
    mirror.put(an_object("a", 9, "late"))
    assert await shown(mirror) == {}, "a deletion that was seen is not undone"
    script.news.put_nowait(("BOOKMARK", {"metadata": {"resourceVersion": "20"}}))
    await settle()
    mirror.put(an_object("b", 19))
    assert await shown(mirror) == {}, "by then the watch had told of everything up to 20"
    mirror.put(an_object("b", 21))
    assert await shown(mirror) == {"default/b": "1"}
    await mirror.close()


async def test_a_deletion_of_a_name_that_was_made_anew_takes_the_new_one_not_away() -> None:
    script = Script()
    script.lists = [([an_object("a", 3)], "7")]
    mirror = script.mirror()
    await mirror.fresh()

    mirror.put(an_object("a", 12, "new"))
    script.news.put_nowait(("DELETED", an_object("a", 10)))

    assert await shown(mirror) == {"default/a": "new"}
    await mirror.close()


async def test_what_we_dropped_stays_away_unless_it_lives_on() -> None:
    script = Script()
    script.lists = [([an_object("a", 3), an_object("b", 4)], "7")]
    mirror = script.mirror()
    await mirror.fresh()
    mirror.put(an_object("b", 9))

    mirror.drop("default/a")
    mirror.drop("default/b")
    mirror.put(an_object("b", 9))
    script.news.put_nowait(("MODIFIED", an_object("b", 9)))
    assert await shown(mirror) == {}
    script.news.put_nowait(("MODIFIED", an_object("a", 11, "ending")))

    assert await shown(mirror) == {"default/a": "ending"}
    await mirror.close()


async def test_a_version_that_is_gone_is_listed_anew_and_what_is_gone_goes() -> None:
    script = Script()
    script.lists = [([an_object("a", 3), an_object("b", 4)], "7"), ([an_object("b", 15, "2")], "20")]
    mirror = script.mirror()
    await mirror.fresh()
    mirror.put(an_object("mine", 30, "newer than the list"))
    mirror.put(an_object("b", 31, "newer too"))

    script.news.put_nowait(Gone(410, "Expired", "too old"))

    assert await shown(mirror) == {"default/b": "newer too", "default/mine": "newer than the list"}
    assert script.watched == ["7", "20"]
    await mirror.close()


async def test_a_watch_that_ends_goes_on_where_it_was() -> None:
    script = Script()
    mirror = script.mirror()
    await mirror.fresh()

    for told in (("ADDED", an_object("a", 8)), None, ("BOOKMARK", {"metadata": {"resourceVersion": "12"}}), None):
        script.news.put_nowait(told)
    await settle()

    assert script.watched == ["0", "8", "12"]
    await mirror.close()


async def test_all_is_listed_anew_from_time_to_time() -> None:
    script = Script()
    script.lists = [([an_object("lost", 3)], "7"), ([], "9")]
    mirror = script.mirror()
    assert await shown(mirror) == {"default/lost": "1"}

    script.clock.advance(module.RESYNC_S * 1.2)
    script.news.put_nowait(None)

    assert await shown(mirror) == {}
    await mirror.close()


async def test_a_cluster_put_back_from_a_copy_counts_anew() -> None:
    script = Script()
    script.lists = [([an_object("a", 900)], "1000"), ([an_object("b", 10)], "20")]
    mirror = script.mirror()
    await mirror.fresh()

    script.news.put_nowait(Gone(410, "Expired", "too large resource version"))
    assert await shown(mirror) == {"default/b": "1"}
    script.news.put_nowait(("MODIFIED", an_object("b", 21, "2")))

    assert await shown(mirror) == {"default/b": "2"}
    await mirror.close()


async def test_an_object_that_is_not_understood_hides_no_other() -> None:
    broken = {"metadata": {"name": "broken", "namespace": "default", "resourceVersion": "5"}, "data": {"w": "1"}}
    script = Script()
    script.lists = [([an_object("a", 3), broken], "7")]
    mirror = script.mirror()

    assert await shown(mirror) == {"default/a": "1"}
    script.news.put_nowait(("MODIFIED", {**an_object("a", 8), "data": {"w": "1"}}))
    script.news.put_nowait(("ADDED", an_object("b", 9)))
    assert await shown(mirror) == {"default/a": "1", "default/b": "1"}, "it stays as it was"
    await mirror.close()


async def test_a_broken_watch_tells_what_it_last_saw_for_a_while() -> None:
    script = Script()
    script.lists = [([an_object("a", 3)], "7")]
    mirror = script.mirror()
    await mirror.fresh()
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:  # the clock does not move while the mirror pauses
        pauses.append(seconds)
        await asyncio.Event().wait()

    script.clock.sleep = sleep  # type: ignore[method-assign]
    script.news.put_nowait(EngineUnavailable("The cluster is away."))

    assert await shown(mirror) == {"default/a": "1"}
    assert pauses == [0.5]
    script.clock.advance(60)
    assert await shown(mirror) == {"default/a": "1"}
    script.clock.advance(1)
    with pytest.raises(EngineUnavailable, match="The cluster is away"):
        await mirror.fresh()
    await mirror.close()


async def test_what_never_worked_says_why_and_works_once_it_can() -> None:
    script = Script()
    script.lists = [EngineUnavailable("No kubeconfig."), KeyError("x"), ([an_object("a", 3)], "7")]
    mirror = script.mirror()

    with pytest.raises(EngineUnavailable, match="No kubeconfig"):
        await mirror.fresh()
    assert await shown(mirror) == {"default/a": "1"}
    await mirror.close()


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, int]]:
    """What happens in a cluster: (what, name, version), in order."""
    alive: dict[str, int] = {}
    told = []
    for version in range(1, draw(st.integers(1, 25)) + 1):
        name = draw(st.sampled_from("abc"))
        what = draw(st.sampled_from(["write", "delete"])) if name in alive else "write"
        told.append((what, name, version))
        if what == "write":
            alive[name] = version
        else:
            del alive[name]
    return told


@given(history=histories(), data=st.data())
def test_in_whichever_order_answers_and_news_come_the_end_is_the_truth(
    history: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """The watch tells all in order, lists come between, some late, and answers to our own writes at any time."""
    script = Script()
    mirror = script.mirror()
    truth: dict[str, str] = {}
    late: list[tuple[str, int]] = []
    told = 0

    def tell(upto: int) -> None:
        nonlocal told
        for what, name, version in history[told:upto]:
            kind = "DELETED" if what == "delete" else "MODIFIED"
            mirror._tell(kind, an_object(name, version, str(version)))
        told = max(told, upto)

    def anew(at: int) -> None:
        nonlocal told
        alive: dict[str, int] = {}
        for what, name, version in history[:at]:
            alive[name] = version if what == "write" else 0
        listed = [an_object(name, version, str(version)) for name, version in alive.items() if version]
        script.lists = [(listed, str(at))]
        asyncio.run(mirror._list())
        told = at

    for at, (what, name, version) in enumerate(history, 1):
        if what == "write":
            truth[f"default/{name}"] = str(version)
            late.append((name, version))
        else:
            del truth[f"default/{name}"]
            if data.draw(st.booleans()):
                mirror.drop(f"default/{name}")
        while late and data.draw(st.booleans()):
            ours, written = late.pop(data.draw(st.integers(0, len(late) - 1)))
            mirror.put(an_object(ours, written, str(written)))
        if data.draw(st.booleans()):
            tell(data.draw(st.integers(told, at)))
        if data.draw(st.booleans()):
            anew(data.draw(st.integers(told, at)))
    tell(len(history))
    for ours, written in late:
        mirror.put(an_object(ours, written, str(written)))

    assert {key: kept.value for key, kept in mirror._kept.items()} == truth


# A real API server


@pytest.fixture
async def api(control: Cluster) -> AsyncIterator[Api]:
    """The API of a cluster, as its administrator; config maps that a test makes are gone afterwards."""
    made = Api(KubernetesSettings(kubeconfig=str(control.kubeconfig()), request_timeout_s=5), clock=SystemClock())
    yield made
    await made.delete(MAPS, labels="test=1")
    await made.close()


def a_map(name: str, value: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"test": "1"}}, "data": {"v": value}}


def of_maps(api: Api, stale_after_s: float = 60) -> Mirror[str]:
    return Mirror(api, MAPS, value_of, labels="test=1", clock=SystemClock(), stale_after_s=stale_after_s)


async def until(mirror: Mirror[str], wanted: dict[str, str], within_s: float = 30) -> None:
    """Wait until the mirror shows this; for a while it may have no answer."""
    end_s, now = time.monotonic() + within_s, dict[str, str]()
    while True:
        with contextlib.suppress(EngineUnavailable):
            now = dict(await mirror.fresh())
        if now == wanted:
            return
        assert time.monotonic() < end_s, now
        await mirror.wait(mirror.version, 0.5)


async def said_of(mirror: Mirror[str]) -> str:
    """Wait until the mirror has no answer; return why."""
    for _ in range(200):
        try:
            await mirror.fresh()
        except EngineUnavailable as error:
            return str(error)
        await asyncio.sleep(0.1)
    raise AssertionError("it goes on")


@real
async def test_it_follows_a_real_cluster(api: Api) -> None:
    await asyncio.gather(*(api.create(MAPS, a_map(f"m{n}", "0")) for n in range(30)))
    mirror = of_maps(api)
    assert len(await mirror.fresh()) == 30

    await asyncio.gather(*(api.patch(f"{MAPS}/m{n}", {"data": {"v": "1"}}) for n in range(30)))
    await asyncio.gather(*(api.delete(f"{MAPS}/m{n}") for n in range(3, 30)))

    await until(mirror, {f"default/m{n}": "1" for n in range(3)})
    mirror.put(await api.create(MAPS, a_map("ours", "2")))
    assert (await mirror.fresh())["default/ours"] == "2"
    await api.delete(f"{MAPS}/ours")
    mirror.drop("default/ours")
    assert "default/ours" not in await mirror.fresh()
    await mirror.close()


@real
async def test_an_api_server_that_is_killed_and_comes_back(api: Api, control: Cluster) -> None:
    await api.create(MAPS, a_map("a", "1"))
    patient, strict = of_maps(api), of_maps(api, stale_after_s=0.5)
    assert await patient.fresh() == await strict.fresh() == {"default/a": "1"}

    control.kill("api")
    try:
        assert "cluster at https" in await said_of(strict) or "Nothing answers at https" in await said_of(strict)
        assert await patient.fresh() == {"default/a": "1"}
    finally:
        await asyncio.to_thread(control.start, "api")
    await api.patch(f"{MAPS}/a", {"data": {"v": "2"}})

    await until(patient, {"default/a": "2"})
    await until(strict, {"default/a": "2"})
    await asyncio.gather(patient.close(), strict.close())


class Unwatched(Script):
    """Lists, and lets nobody watch."""

    async def watch(self, _path: str, **_: Any) -> AsyncGenerator[tuple[str, Any], None]:
        raise Forbidden(403, "Forbidden", "pods is forbidden")
        yield


async def test_a_watch_that_stays_broken_is_told_of_long_before_it_is_stale() -> None:
    script = Unwatched()
    script.lists = [([an_object("a", 3)], "7")]
    mirror = script.mirror()
    assert await mirror.fresh()
    assert mirror.trouble() == "", "it may be whole again in a moment"
    for _ in range(500):
        if mirror.trouble():
            break
        await asyncio.sleep(0)
    assert await mirror.fresh(), "it is still good enough"
    assert "pods is forbidden" in mirror.trouble()
    assert "grows old, 60 s at most" in mirror.trouble()
    assert script.clock.monotonic_s() < 15.0
    mirror._works()
    assert mirror.trouble() == ""
    await mirror.close()


@real
async def test_what_may_not_be_seen_is_said_by_name(control: Cluster) -> None:
    stranger = Api(KubernetesSettings(kubeconfig=str(control.kubeconfig("stranger"))), clock=SystemClock())
    mirror = of_maps(stranger)

    said = await said_of(mirror)
    assert 'User "stranger" cannot list resource "configmaps"' in said
    assert "rbac.yaml" in said
    await mirror.close()
    await stranger.close()
