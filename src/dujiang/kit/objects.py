"""Files by their content: an object's name is the SHA-256 of its bytes, in a local directory or an S3 bucket.

Decides where bytes lie, that they arrive whole, and that what comes back is what went in. Which objects are still
needed is for the callers to say (`delete_unused`). Equal content is stored once. A write is staged first, hashed as it
is written, and appears under its name only when it is complete (rename, or the end of a multipart upload), so a crash
leaves at most a staged file that nobody sees. All blocking work runs in threads of its own.

Layout: `sha256/ab/cdef...`; a local store keeps staged files in `staging/` beside it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from dujiang.kit.clock import Clock
from dujiang.kit.errors import DujiangError, Invalid, NotFound, StorageFull, Unavailable

UNUSED_AFTER_S: Final = 86400.0
"""An object that nothing refers to is kept this long, so that an upload has time to be registered."""

_CHUNK = 1 << 20
_PART = 8 << 20  # S3 takes parts of 5 MiB and more, at most 10,000 of them: 80 GB
_LARGEST = 10_000 * _PART
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("os error 28", "os error 122", "StorageFull", "QuotaExceeded", "507 Insufficient Storage")
_REFUSED_WORDS = ("403 Forbidden", "401 Unauthorized", "NoSuchBucket", "os error 13")

T = TypeVar("T")


class ObjectStoreUnavailable(Unavailable):
    """The object store does not answer; nothing was lost."""

    code, title = "object_store_unavailable", "The object store does not answer"


class ObjectStoreRefused(ObjectStoreUnavailable):
    """The object store answers and refuses: wrong keys, no such bucket, no right to the folder."""

    code, title = "object_store_refused", "The object store refuses the platform"


class ObjectStoreFull(StorageFull):
    """The object store or the disk for staging has no room left; nothing was lost."""

    code, title = "object_store_full", "The object store is full"


class ObjectMissing(NotFound):
    """There is no object with this digest."""

    code, title = "object_missing", "The stored file is missing"


class ObjectCorrupt(DujiangError):
    """The bytes in the store are not those that were put there."""

    code, http_status, title = "object_corrupt", 500, "The stored file is damaged"


class ObjectTooLarge(Invalid):
    """More bytes than the limit allows."""

    code, http_status, title = "object_too_large", 413, "The file is too large"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that lies in the store."""

    digest: str
    """`sha256:` and 64 hexadecimal digits."""
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the store lists it."""

    digest: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete local copy, hashed while it was written, on its way into the store."""

    name: str
    """Path within the staging folder, with `/`."""
    path: Path
    digest: str
    bytes: int


class Staging:
    """A private folder for the files of one upload; gone when its block ends, whatever was not kept with it."""

    def __init__(self, folder: Path, run: Callable[..., Any]) -> None:
        self.folder, self._run = folder, run

    async def add(self, name: str, chunks: AsyncIterable[bytes], *, limit_bytes: int = _LARGEST) -> Staged:
        """Write a stream to a file of that name.

        Raises:
            ObjectTooLarge: more than the limit came.
            ObjectStoreFull: no room on the disk.
        """
        with _Hashed(self._path(name)) as file:
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                _check_size(file.bytes + len(waiting), limit_bytes)
                if len(waiting) >= _CHUNK:
                    await self._run(file.write, bytes(waiting))
                    waiting.clear()
            await self._run(file.write, bytes(waiting))
            await self._run(file.sync)
            return Staged(name, file.path, file.digest, file.bytes)

    async def add_file(self, name: str, source: IO[bytes], *, limit_bytes: int = _LARGEST) -> Staged:
        """Copy an open file, from where it stands to its end; errors as `add`."""

        def copy() -> Staged:
            with _Hashed(self._path(name)) as file:
                while chunk := source.read(_CHUNK):
                    _check_size(file.bytes + len(chunk), limit_bytes)
                    file.write(chunk)
                file.sync()
                return Staged(name, file.path, file.digest, file.bytes)

        staged: Staged = await self._run(copy)
        return staged

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise Invalid(f"{name!r} is not a name for a file within a folder.")
        path = self.folder.joinpath(*parts)
        with _translated():
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


class ObjectStore:
    """The platform's files; make one with `open_store`."""

    def __init__(self, store: LocalStore | S3Store, *, root: Path | None, staging: Path, clock: Clock) -> None:
        self._store, self._root, self._staging, self._clock = store, root, staging, clock
        self._suspect: set[str] = set()  # keys whose bytes could not be read whole: to be written anew when put again
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="objects")

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[Staging]:
        """Open a private folder to collect the files of one upload, to be looked at before they are kept."""
        folder = Path(await self._run(self._make_folder))
        try:
            yield Staging(folder, self._run)
        finally:
            await asyncio.shield(self._run(shutil.rmtree, folder, True))

    async def keep(self, staged: Staged) -> Stored:
        """Bring a staged file into the store; content that lies there whole is not written again.

        A local store takes the file itself, so it is no longer in the staging folder afterwards.

        Raises:
            ObjectStoreUnavailable, ObjectStoreFull: try again later; the staged file is still there.
        """
        return await self._run(self._keep, staged)

    async def put_stream(self, chunks: AsyncIterable[bytes], *, limit_bytes: int = _LARGEST) -> Stored:
        """Store a stream; errors as `Staging.add` and `keep`."""
        async with self.staging() as staging:
            return await self.keep(await staging.add("file", chunks, limit_bytes=limit_bytes))

    async def put_file(self, path: Path) -> Stored:
        """Store a copy of a local file; errors as `keep`, and FileNotFoundError."""
        with path.open("rb") as source:
            async with self.staging() as staging:
                return await self.keep(await staging.add_file("file", source))

    async def put_bytes(self, data: bytes) -> Stored:
        """Store bytes; errors as `keep`."""

        async def once() -> AsyncIterator[bytes]:
            yield data

        return await self.put_stream(once())

    async def find(self, digest: str) -> Stored | None:
        """Return the object, or None when there is none; its bytes are not read."""
        key = _key(digest)
        meta = await self._run(self._head, key)
        return Stored(digest, meta["size"]) if meta else None

    async def fetch(self, digest: str, target: Path) -> Stored:
        """Write an object to a local file, which appears only when it is whole and its digest right.

        Raises:
            ObjectMissing, ObjectCorrupt: the store does not have it (any more).
            ObjectStoreUnavailable, ObjectStoreFull: try again later.
        """
        return await self._run(self._fetch, digest, target)

    async def stream(self, digest: str) -> AsyncIterator[bytes]:
        """Yield an object's bytes.

        The last piece is held back until the digest is known to be right, so that whoever reads a damaged object gets
        an error and never the whole of it. Errors as `fetch`.
        """
        pieces = await self._run(lambda: self._pieces(digest))
        held = b""
        while piece := await self._run(next, pieces, b""):
            if held:
                yield held
            held = piece
        if held:
            yield held

    async def verify(self, digest: str) -> Stored:
        """Read an object whole and compare its digest; errors as `fetch`."""

        def read() -> Stored:
            return Stored(digest, sum(len(piece) for piece in self._pieces(digest)))

        return await self._run(read)

    async def walk(self) -> AsyncIterator[StoredObject]:
        """Yield every object of the store, in no promised order."""
        pages = await self._run(lambda: iter(obstore.list(self._store, prefix="sha256", chunk_size=1000)))
        while page := await self._run(next, pages, None):
            for meta in page:
                digest = "sha256:" + meta["path"].removeprefix("sha256/").replace("/", "")
                if _DIGEST.fullmatch(digest):
                    yield StoredObject(digest, meta["size"], meta["last_modified"])

    async def delete_unused(self, used: Collection[str], *, after_s: float = UNUSED_AFTER_S) -> list[StoredObject]:
        """Delete objects whose digest is not in `used` and which were last put more than that long ago.

        Also clears staged files of that age, which a crash left behind. Returns the objects deleted.
        """
        before = self._clock.now() - timedelta(seconds=after_s)
        unused = [item async for item in self.walk() if item.modified_at < before and item.digest not in used]
        for item in unused:
            await self._run(self._delete, _key(item.digest))
        await self._run(self._sweep_staging, before.timestamp())
        return unused

    def close(self) -> None:
        """Let the threads end; a copy in progress ends first."""
        self._threads.shutdown(wait=True)

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        def checked() -> T:
            with _translated():
                return call(*args)

        return await asyncio.get_running_loop().run_in_executor(self._threads, checked)

    def _make_folder(self) -> str:
        self._check_root()
        self._staging.mkdir(parents=True, exist_ok=True)
        return tempfile.mkdtemp(dir=self._staging)

    def _check_root(self) -> None:
        # Otherwise a write would make the folder anew below the mount point of a disk that went away.
        if self._root is not None and not self._root.is_dir():
            raise ObjectStoreUnavailable(f"The folder of the object store, {self._root}, is gone; mount it again.")

    def _head(self, key: str) -> Any:
        self._check_root()
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    def _keep(self, staged: Staged) -> Stored:
        key = _key(staged.digest)
        meta = self._head(key)
        # What lies there unused could be deleted before the caller refers to it: put again, it is young again.
        young = self._clock.now() - timedelta(seconds=UNUSED_AFTER_S / 2)
        same = meta is not None and meta["size"] == staged.bytes and key not in self._suspect
        if not same or meta["last_modified"] < young:
            if self._root is not None:
                _rename(staged.path, self._root / key)
            elif staged.bytes <= _PART:
                obstore.put(self._store, key, b"".join(_checked(staged)), use_multipart=False)
            else:
                obstore.put(self._store, key, _checked(staged), chunk_size=_PART, max_concurrency=4)
            self._suspect.discard(key)
        return Stored(staged.digest, staged.bytes)

    def _pieces(self, digest: str) -> Iterator[bytes]:
        self._check_root()
        key, seen = _key(digest), hashlib.sha256()
        try:
            result = obstore.get(self._store, key)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            raise ObjectMissing(
                f"The object store has no file {digest}; restore it from a backup, or store the same file again.",
                digest=digest,
            ) from error
        held = b""
        self._suspect.add(key)
        for piece in result.stream(min_chunk_size=_CHUNK):
            data = bytes(piece)
            seen.update(data)
            if held:
                yield held
            held = data
        if f"sha256:{seen.hexdigest()}" != digest:
            raise ObjectCorrupt(
                f"The file {digest} in the object store is damaged: its bytes have another digest. Restore it from a "
                "backup, or store the same file again.",
                digest=digest,
            )
        self._suspect.discard(key)
        if held:
            yield held

    def _fetch(self, digest: str, target: Path) -> Stored:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        size = 0
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in self._pieces(digest):
                    file.write(piece)
                    size += len(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Stored(digest, size)

    def _delete(self, key: str) -> None:
        self._check_root()
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def _sweep_staging(self, before: float) -> None:
        if self._staging.is_dir():
            for folder in self._staging.iterdir():
                if folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)


def open_store(
    url: str, *, clock: Clock, staging: Path | None = None, endpoint: str | None = None,
    access_key_id: str | None = None, secret_access_key: str | None = None, region: str = "us-east-1",
    answer_within_s: float = 30.0,
) -> ObjectStore:  # fmt: skip
    """Open the object store at an address.

    Args:
        url: a folder (a path or `file:///path`, made when missing) or `s3://bucket/prefix`.
        clock: to tell how old an unused object is.
        staging: local folder for uploads on their way; needed for S3, inside the store for a folder.
        endpoint: of an S3 service other than Amazon's, `http://host:port`; buckets are addressed by path.
        access_key_id, secret_access_key: without them the usual AWS_* variables and instance roles are tried.
        region: of the bucket.
        answer_within_s: an S3 service that sends nothing for that long counts as away. Too little cuts off slow
            uploads (parts are 8 MiB), too much lets callers wait.

    Raises:
        Invalid: an address of another kind.
        ObjectStoreRefused: the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        root = Path(parts.path if parts.scheme else url).expanduser().absolute()
        with _translated():
            (root / "sha256").mkdir(parents=True, exist_ok=True)
        return ObjectStore(LocalStore(root), root=root, staging=root / "staging", clock=clock)
    if parts.scheme != "s3" or not parts.netloc:
        raise Invalid(f'"{url}" is not an address of an object store; write a folder or s3://bucket/prefix.')
    if staging is None:
        raise Invalid("An S3 object store needs a local folder for uploads on their way (staging).")
    options: dict[str, Any] = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
    if endpoint:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    store = S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        region=region,
        client_options={
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=min(5.0, answer_within_s)),
            "read_timeout": timedelta(seconds=answer_within_s),
            "timeout": timedelta(hours=12),  # of a whole request: a large file takes as long as it takes
        },
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=answer_within_s)},
        **{name: value for name, value in options.items() if value is not None},
    )
    return ObjectStore(store, root=None, staging=staging, clock=clock)


def hex_of(digest: str) -> str:
    """Return the 64 hexadecimal digits of a digest.

    Raises:
        Invalid: not of the form `sha256:...`.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Invalid(f"{digest[:80]!r} is not a digest; it reads sha256: and 64 hexadecimal digits.")
    return match[1]


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self._hash = path, 0, hashlib.sha256()

    def __enter__(self) -> _Hashed:
        with _translated():
            self._file = self.path.open("xb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.bytes += len(data)

    def sync(self) -> None:
        os.fsync(self._file.fileno())


def _key(digest: str) -> str:
    name = hex_of(digest)
    return f"sha256/{name[:2]}/{name[2:]}"


def _check_size(size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise ObjectTooLarge(f"The file is larger than the limit of {limit_bytes} bytes.", limit_bytes=limit_bytes)


def _checked(staged: Staged) -> Iterator[bytes]:
    """Yield a staged file's bytes; a change since it was staged breaks the upload off before it is complete."""
    seen = hashlib.sha256()
    with staged.path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            seen.update(chunk)
            yield chunk
    if f"sha256:{seen.hexdigest()}" != staged.digest:
        raise ObjectCorrupt("The staged file changed before it was stored; upload it again.", digest=staged.digest)


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.chmod(0o444)
    os.replace(source, target)
    os.utime(target)
    for folder in (target.parent, target.parent.parent):  # the name must survive a power cut as the bytes do
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DujiangError:
        raise
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise ObjectStoreRefused(f"{_first_line(error)} Check its keys and rights.") from error
    except (BaseError, OSError) as error:
        text = str(error)
        if getattr(error, "errno", None) in _FULL or any(word in text for word in _FULL_WORDS):
            raise ObjectStoreFull("The object store or its disk has no room left; nothing was lost.") from error
        if any(word in text for word in _REFUSED_WORDS):
            raise ObjectStoreRefused(f"{_first_line(error)} Check its address, keys and rights.") from error
        raise ObjectStoreUnavailable(f"{_first_line(error)} Nothing was lost; try again.") from error


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0][:300].rstrip(" .:")
    return f"The object store failed: {line}."
