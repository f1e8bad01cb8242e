"""The files of model versions: taken from a job's output folder, checked, stored, and brought to where services run.

Decides which files can be versions. A file is copied before it is looked at, so what was checked is what is stored.
No transaction is open while any of this runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from dujiang.engines.contract import AttemptKey, Engine
from dujiang.engines.outputs import (
    OutputFile,
    OutputMissing,
    OutputNotAFile,
    OutputOutside,
    OutputRefused,
    OutputUnreachable,
)
from dujiang.kit.errors import DujiangError
from dujiang.kit.objects import ObjectStore, ObjectTooLarge, hex_of
from dujiang.kit.units import format_bytes
from dujiang.models.domain import VersionReason
from dujiang.models.settings import ModelSettings

_SHOWN_NAMES: Final = 8
_LONGEST_SENTENCE: Final = 1000
_LONGEST_ANSWER: Final = 2**20
_CHUNK: Final = 2**20
_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")

_R = VersionReason


class ArtifactRefused(DujiangError):
    """The file that a job left cannot be a model version."""

    code: ClassVar[str] = "artifact_refused"
    http_status: ClassVar[int] = 409

    def __init__(self, reason: VersionReason, sentence: str) -> None:
        super().__init__(sentence[:_LONGEST_SENTENCE], reason=str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Taken:
    """A file that was stored."""

    digest: str
    bytes: int
    signature: Mapping[str, Any]


class Artifacts:
    """The files of versions, in the object store and in the folder from which services read."""

    def __init__(self, objects: ObjectStore, settings: ModelSettings) -> None:
        self._objects, self._settings = objects, settings
        self._good: dict[str, tuple[int, int, int]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(self, engine: Engine, key: AttemptKey, path: str) -> Taken:
        """Copy, check and store a job's file.

        Args:
            engine: that ran the job.
            key: of the attempt that made the file.
            path: relative to its output folder.

        Raises:
            ArtifactRefused: it cannot be a version; says why.
            EngineUnavailable: the file cannot be had now; nothing was lost, ask again.
            Unavailable: the object store is away or full; nothing was lost, ask again.
        """
        limit = self._settings.largest_artifact_bytes
        async with self._objects.staging() as staging:
            pieces = engine.output(key, path, most_bytes=limit + 1)
            try:
                staged = await staging.add("model.onnx", pieces, limit_bytes=limit)
            except ObjectTooLarge as error:
                raise ArtifactRefused(
                    _R.FILE_TOO_LARGE, f"{path} is larger than {format_bytes(limit)}, the most a version may have."
                ) from error
            except OutputRefused as error:
                raise await _refused(error, engine, key) from error
            if not staged.bytes:
                raise ArtifactRefused(
                    _R.FILE_EMPTY, f"{path} is empty; the job must write the model into it before it ends."
                )
            signature = await self._check(staged.path, path)
            stored = await self._objects.keep(staged)
        return Taken(stored.digest, stored.bytes, signature)

    async def local(self, digest: str) -> Path:
        """Return the path of a file's copy for services, made or repaired first where needed.

        A copy that was read whole and has not changed since is not read again.

        Raises:
            ObjectMissing, ObjectCorrupt: the store does not have it any more.
            Unavailable: the object store is away.
        """
        target = self._settings.cache_folder / f"{hex_of(digest)}.onnx"
        async with self._turns[digest]:
            if digest in self._good and self._good[digest] == await asyncio.to_thread(_identity, target):
                return target
            if not await asyncio.to_thread(_has_digest, target, digest):
                await self._objects.fetch(digest, target)
                await asyncio.to_thread(target.chmod, 0o444)
            identity = await asyncio.to_thread(_identity, target)
            if identity is not None:
                self._good[digest] = identity
        return target

    def ready(self, digest: str) -> Path | None:
        """Return the path of a copy that `local` has made in this process, or None."""
        return self._settings.cache_folder / f"{hex_of(digest)}.onnx" if digest in self._good else None

    async def stream(self, digest: str) -> AsyncIterator[bytes]:
        """Return the bytes of a stored file; the first are there already, so that what is wrong shows at once.

        Raises:
            ObjectMissing, ObjectCorrupt, Unavailable: as `ObjectStore.stream`; later pieces may raise them too.
        """
        pieces = self._objects.stream(digest)
        first = await anext(pieces, b"")

        async def all_of_it() -> AsyncIterator[bytes]:
            yield first
            async for piece in pieces:
                yield piece

        return all_of_it()

    async def prune(self, used: Collection[str], *, before_timestamp: float) -> int:
        """Delete copies for services that none uses and that are older than that; return how many."""
        kept = {f"{hex_of(digest)}.onnx" for digest in used}

        def sweep() -> int:
            if not self._settings.cache_folder.is_dir():
                return 0
            gone = 0
            for file in sorted(self._settings.cache_folder.glob("*.onnx")):
                with suppress(FileNotFoundError):
                    if file.name not in kept and file.stat().st_mtime < before_timestamp:
                        file.unlink()
                        gone += 1
            return gone

        return await asyncio.to_thread(sweep)

    async def _check(self, file: Path, path: str) -> Mapping[str, Any]:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            self._settings.python, "-m", "dujiang.models.serving.check", str(file), path,
            env={**environment, "CUDA_VISIBLE_DEVICES": ""}, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=file.parent, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._settings.check_within_s):
                assert process.stdout is not None
                text = await process.stdout.read(_LONGEST_ANSWER)
                status = await process.wait()
        except TimeoutError as error:
            raise ArtifactRefused(
                _R.CHECK_BROKE_OFF, f"{path} was not loaded within {self._settings.check_within_s:g} s; is it a model?"
            ) from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _answer_of(text, status, path)


async def _refused(error: OutputRefused, engine: Engine, key: AttemptKey) -> ArtifactRefused:
    """Return why a file that cannot be had can be no version; of one that is missing, with what is there instead."""
    match error:
        case OutputUnreachable():
            return ArtifactRefused(_R.NO_OUTPUT_FOLDER, error.sentence)
        case OutputOutside():
            return ArtifactRefused(_R.OUTSIDE_OUTPUT_FOLDER, error.sentence)
        case OutputNotAFile():
            return ArtifactRefused(_R.NOT_A_FILE, f"{error.sentence} A model version is one file.")
        case OutputMissing():
            try:
                files = await engine.outputs(key, most=_SHOWN_NAMES + 1)
            except OutputRefused as why:
                return ArtifactRefused(_R.NO_OUTPUT_FOLDER, why.sentence)
            return ArtifactRefused(_R.FILE_MISSING, f"{error.sentence} {_names(files)}")
    return ArtifactRefused(_R.FILE_UNREADABLE, error.sentence)


def _answer_of(text: bytes, status: int, path: str) -> Mapping[str, Any]:
    answer: Any = None
    with suppress(ValueError):
        answer = json.loads(text)
    if status == 0 and isinstance(answer, dict) and "inputs" in answer:
        return answer
    if status == 1 and isinstance(answer, dict) and "error" in answer:
        raise ArtifactRefused(_R.NOT_LOADABLE, str(answer["error"]))
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    raise ArtifactRefused(
        _R.CHECK_BROKE_OFF,
        f"Loading {path} broke off {how}: it is damaged, or unfolds into far more memory than its size.",
    )


def _names(files: Sequence[OutputFile]) -> str:
    if not files:
        return "The folder holds no file."
    shown = ", ".join(ascii(file.path)[1:-1] for file in files[:_SHOWN_NAMES])
    return f"It holds {shown}{' and more' if len(files) > _SHOWN_NAMES else ''}."


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _has_digest(path: Path, digest: str) -> bool:
    seen = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                seen.update(chunk)
    except OSError:
        return False
    return f"sha256:{seen.hexdigest()}" == digest
