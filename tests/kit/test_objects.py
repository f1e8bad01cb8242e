"""The object store, on a local folder and on a real S3 server that checks signatures."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dujiang.kit.clock import ManualClock, SystemClock
from dujiang.kit.errors import Invalid
from dujiang.kit.objects import (
    ObjectCorrupt,
    ObjectMissing,
    ObjectStore,
    ObjectStoreRefused,
    ObjectStoreUnavailable,
    ObjectTooLarge,
    open_store,
)

KEYS = {"access_key_id": "AKDUJIANG", "secret_access_key": "not-a-secret-but-long-enough"}
BIG = b"0123456789abcdef" * (1 << 20)  # 16 MiB: more than one part


class S3Server:
    """A light S3 server as a process of its own."""

    def __init__(self, data: Path) -> None:
        self.data = data
        (data / "files").mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [Path(sys.executable).with_name("nanio"), "serve", "--data-dir", self.data, "--host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--log-level", "error", "--no-access-log"],
            env={
                **os.environ,
                "NANIO_ACCESS_KEY": KEYS["access_key_id"],
                "NANIO_SECRET_KEY": KEYS["secret_access_key"],
            },
        )
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("the S3 server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def open(self, staging: Path, *, prefix: str = "models", bucket: str = "files", **settings: str) -> ObjectStore:
        return open_store(
            f"s3://{bucket}/{prefix}", clock=SystemClock(), staging=staging, endpoint=f"http://127.0.0.1:{self.port}",
            answer_within_s=2.0, **{**KEYS, **settings},
        )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@dataclass(frozen=True)
class Home:
    """A store and the folder on this disk in which its objects lie."""

    store: ObjectStore
    folder: Path

    def file_of(self, digest: str) -> Path:
        return self.folder / "sha256" / digest[7:9] / digest[9:]


@pytest.fixture(params=["folder", "s3"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    if request.param == "folder":
        home = Home(open_store(str(tmp_path / "store"), clock=SystemClock()), tmp_path / "store")
    else:
        server = request.getfixturevalue("server")
        store = server.open(tmp_path / "staging", prefix=tmp_path.name)
        home = Home(store, server.data / "files" / tmp_path.name)
    yield home
    home.store.close()


@pytest.fixture
def store(home: Home) -> ObjectStore:
    return home.store


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def all_of(store: ObjectStore) -> dict[str, int]:
    return {item.digest: item.bytes async for item in store.walk()}


def traces(folder: Path) -> list[Path]:
    return list(folder.glob("*out*"))


def staged_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("staging/**/*") if path.is_file()]


@pytest.mark.parametrize("data", [b"", b"a", b"x" * 1_048_576, BIG + b"tail"], ids=["empty", "byte", "chunk", "parts"])
async def test_what_comes_back_is_what_went_in(store: ObjectStore, tmp_path: Path, data: bytes) -> None:
    stored = await store.put_stream(pieces(data))
    assert (stored.digest, stored.bytes) == (sha256(data), len(data))
    assert await store.find(stored.digest) == stored
    target = tmp_path / "deep" / "er" / "file"
    assert await store.fetch(stored.digest, target) == stored
    assert target.read_bytes() == data
    assert b"".join([piece async for piece in store.stream(stored.digest)]) == data
    assert await store.verify(stored.digest) == stored
    assert staged_files(tmp_path) == []


async def test_equal_content_is_stored_once_whatever_way_it_comes(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"the same")
    results = await asyncio.gather(
        store.put_bytes(b"the same"), store.put_file(file), store.put_stream(pieces(b"the same", 3))
    )
    assert len(set(results)) == 1
    assert await all_of(store) == {sha256(b"the same"): 8}
    assert file.read_bytes() == b"the same"


async def test_missing_objects_and_words_that_are_no_digests(store: ObjectStore, tmp_path: Path) -> None:
    absent = sha256(b"never stored")
    assert await store.find(absent) is None
    with pytest.raises(ObjectMissing) as caught:
        await store.fetch(absent, tmp_path / "out")
    assert caught.value.facts["digest"] == absent
    assert traces(tmp_path) == []
    for word in ("../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63, ""):
        with pytest.raises(Invalid):
            await store.find(word)


async def test_a_stream_over_the_limit_or_broken_off_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectTooLarge):
        await store.put_stream(pieces(b"x" * 1_000_000), limit_bytes=999_999)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.put_stream(broken())
    assert await all_of(store) == {}
    assert staged_files(tmp_path) == []


async def test_staged_files_are_looked_at_before_they_are_kept(store: ObjectStore, tmp_path: Path) -> None:
    async with store.staging() as staging:
        kept = await staging.add("a/model.onnx", pieces(b"weights"))
        left = await staging.add("a/notes", pieces(b"notes"))
        assert kept.path.read_bytes() == b"weights"
        assert kept.path == staging.folder / "a" / "model.onnx"
        assert await all_of(store) == {}
        await store.keep(kept)
        for bad in ("../x", "/x", "a//b", "", "a/..", "a\0b"):
            with pytest.raises(Invalid):
                await staging.add(bad, pieces(b"x"))
    assert await all_of(store) == {kept.digest: 7}
    assert not left.path.exists()
    assert not staging.folder.exists()


async def test_unused_objects_go_once_they_are_old_and_used_or_young_ones_stay(tmp_path: Path) -> None:
    clock = ManualClock(start=SystemClock().now())
    store = open_store(str(tmp_path), clock=clock)
    used, unused = await store.put_bytes(b"used"), await store.put_bytes(b"unused")
    assert await store.delete_unused({used.digest}) == []
    clock.advance(86_400 / 2 + 60)
    half_a_day_later = clock.now().timestamp()  # as if it were put again then
    os.utime(tmp_path / "sha256" / unused.digest[7:9] / unused.digest[9:], (half_a_day_later, half_a_day_later))
    clock.advance(86_400 / 2)
    assert await store.delete_unused({used.digest}) == []
    clock.advance(86_400)
    leftover = tmp_path / "staging" / "left"
    leftover.mkdir()
    (leftover / "file").write_bytes(b"a crash left me")
    assert [item.digest for item in await store.delete_unused({used.digest})] == [unused.digest]
    assert await all_of(store) == {used.digest: 4}
    assert not leftover.exists()


async def test_an_object_put_again_is_young_again(tmp_path: Path) -> None:
    clock = ManualClock(start=SystemClock().now())
    store = open_store(str(tmp_path), clock=clock)
    stored = await store.put_bytes(b"again")
    path = tmp_path / "sha256" / stored.digest[7:9] / stored.digest[9:]
    day_before = clock.now().timestamp() - 86_390
    os.utime(path, (day_before, day_before))
    await store.put_bytes(b"again")
    clock.advance(60)
    assert await store.delete_unused(set()) == []


async def test_unused_objects_are_deleted_from_s3(server: S3Server, tmp_path: Path) -> None:
    store = server.open(tmp_path / "staging", prefix="unused")
    used, unused = await store.put_bytes(b"used"), await store.put_bytes(b"unused")
    assert [item.digest for item in await store.delete_unused([used.digest], after_s=-60)] == [unused.digest]
    assert await store.find(unused.digest) is None
    assert await store.find(used.digest) == used


@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "parts"])
async def test_damaged_objects_are_never_handed_out_whole(home: Home, tmp_path: Path, data: bytes) -> None:
    store = home.store
    stored = await store.put_bytes(data)
    path = home.file_of(stored.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(len(data) // 2)
        file.write(b"!")
    with pytest.raises(ObjectCorrupt):
        await store.fetch(stored.digest, tmp_path / "out")
    assert traces(tmp_path) == []
    received = bytearray()

    async def receive() -> None:
        async for piece in store.stream(stored.digest):
            received.extend(piece)

    with pytest.raises(ObjectCorrupt):
        await receive()
    assert len(received) < len(data)
    with pytest.raises(ObjectCorrupt):
        await store.verify(stored.digest)


@pytest.mark.parametrize("damaged", [b"all of", b"ALL of it"], ids=["truncated", "changed"])
async def test_a_damaged_object_is_healed_by_putting_it_again(home: Home, damaged: bytes) -> None:
    store = home.store
    stored = await store.put_bytes(b"all of it")
    path = home.file_of(stored.digest)
    path.unlink()
    path.write_bytes(damaged)
    with pytest.raises((ObjectCorrupt, ObjectStoreUnavailable)):
        await store.verify(stored.digest)
    await store.put_bytes(b"all of it")
    assert await store.verify(stored.digest) == stored


async def test_a_wrong_secret_and_a_missing_bucket_are_refused(server: S3Server, tmp_path: Path) -> None:
    right = server.open(tmp_path / "staging", prefix="keys")
    stored = await right.put_bytes(b"private")
    for wrong in (
        server.open(tmp_path / "staging", prefix="keys", secret_access_key="wrong"),
        server.open(tmp_path / "staging", prefix="keys", access_key_id="nobody"),
    ):
        for attempt in (
            wrong.put_bytes(b"x"), wrong.find(stored.digest), wrong.verify(stored.digest), all_of(wrong),
            wrong.fetch(stored.digest, tmp_path / "out"),
        ):  # fmt: skip
            with pytest.raises(ObjectStoreRefused) as caught:
                await attempt
            assert caught.value.retryable
            assert "wrong" not in caught.value.sentence
    with pytest.raises(ObjectStoreRefused):
        await server.open(tmp_path / "staging", bucket="none").put_bytes(b"x")


async def test_a_server_that_goes_away_mid_way_loses_nothing(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3")
    store = server.open(tmp_path / "staging")
    try:
        before = await store.put_bytes(b"stored before")
        async with store.staging() as staging:
            staged = await staging.add("big", pieces(BIG))

            async def stop_while_uploading() -> None:
                while not list(server.data.glob(".nanio/multipart/**/*")):  # noqa: ASYNC110  another process writes it
                    await asyncio.sleep(0)
                server.stop()

            stopping = asyncio.create_task(stop_while_uploading())
            with pytest.raises(ObjectStoreUnavailable) as caught:
                await store.keep(staged)
            await stopping
            assert caught.value.retryable
            with pytest.raises(ObjectStoreUnavailable):
                await store.find(before.digest)
            server.start()
            assert await store.find(staged.digest) is None  # half an upload is no object
            kept = await store.keep(staged)  # the staged file is still there
        assert await store.verify(kept.digest) == kept
        assert await store.verify(before.digest) == before
    finally:
        server.stop()


async def test_a_folder_that_went_away_is_not_made_anew(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    store = open_store(str(root), clock=SystemClock())
    stored = await store.put_bytes(b"x")
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(ObjectStoreUnavailable):
        await store.put_bytes(b"y")
    with pytest.raises(ObjectStoreUnavailable):
        await store.verify(stored.digest)
    assert not root.exists()
    (tmp_path / "elsewhere").rename(root)
    assert await store.verify(stored.digest) == stored


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """Needs a user namespace to mount a small file system in; where the machine forbids that there is no such test."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    program = """
import asyncio, sys
from pathlib import Path
from dujiang.kit.clock import SystemClock
from dujiang.kit.objects import ObjectStoreFull, open_store

async def main(root):
    store = open_store(root, clock=SystemClock())
    before = await store.put_bytes(b"a" * 1_000_000)
    try:
        await store.put_bytes(b"b" * 3_000_000)
    except ObjectStoreFull as error:
        print(error.http_status, error.retryable)
    assert not [path for path in Path(root, "staging").rglob("*")]
    assert await store.verify(before.digest) == before
    await store.put_bytes(b"c" * 500_000)
    print("went on")

asyncio.run(main(sys.argv[1]))
"""
    script = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1/store"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path, sys.executable, program], capture_output=True, text=True
    )
    if "mount" in done.stderr:
        pytest.skip("no mounts here")
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["507 True", "went on"]


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://", "s3:///prefix"])
def test_addresses_of_another_kind_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        open_store(url, clock=SystemClock(), staging=tmp_path)
    with pytest.raises(Invalid):
        open_store("s3://bucket", clock=SystemClock())
