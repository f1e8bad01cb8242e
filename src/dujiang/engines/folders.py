"""How an engine reads what attempts left, where their output folders are seen here.

A job may change its folder, and exchange it, at any moment: so nothing is opened by its path (`kit.beneath`). Sentences
name no path of the platform's own: tenants read them.
"""

from __future__ import annotations

import asyncio
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import IO, Final, NoReturn, TypeVar

from dujiang.engines.contract import AttemptKey, EngineUnavailable
from dujiang.engines.outputs import (
    MOST_LISTED,
    OutputFile,
    OutputMissing,
    OutputNotAFile,
    OutputOutside,
    OutputRefused,
)
from dujiang.kit import beneath
from dujiang.kit.beneath import Place

T = TypeVar("T")
_PIECE_BYTES: Final = 1 << 20
_THREADS: Final = 4
"""Of an engine: a file system that hangs holds up nothing but the reading of what lies on it."""
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_AWAY = (
    errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
"""What a file system says that does not answer, or a machine that has no room: the same may succeed later. All else is
about the file, and a job could bring it about."""


class OutputFolders(ABC):
    """The part of an engine that reads output folders."""

    @abstractmethod
    def output_place(self, key: AttemptKey) -> Place:
        """Return where the output folder of an attempt is, also of one that is unknown or forgotten.

        Raises:
            EngineUnavailable: what it lies on is away for now.
            OutputUnreachable: it is not seen here.
        """

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = MOST_LISTED) -> Sequence[OutputFile]:
        """Return the files of an attempt's output folder."""
        place = self.output_place(key)
        listed = await self._in_thread(lambda: beneath.list_files(place, prefix=prefix, most=most), None)
        return [OutputFile(one.path, one.size_bytes) for one in listed]

    async def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        """Yield a piece of a file of an attempt's output folder, no further than it reaches when it is opened."""
        place, at = self.output_place(key), offset

        def begin() -> tuple[IO[bytes], int, bytes]:
            file = beneath.open_linked_file(place, beneath.steps_of(path))
            end = min(offset + most_bytes, os.fstat(file.fileno()).st_size)
            return file, end, _piece(file, offset, end)

        file, end, data = await self._in_thread(begin, path)
        with file:
            while data:
                yield data
                at += len(data)
                data = await self._in_thread(partial(_piece, file, at, end), path) if at < end else b""

    async def _in_thread(self, call: Callable[[], T], path: str | None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, call)
        except OSError as error:
            _tell(error, path)

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="outputs")


def _piece(file: IO[bytes], at: int, end: int) -> bytes:
    return os.pread(file.fileno(), max(0, min(_PIECE_BYTES, end - at)), at)


def _tell(error: OSError, path: str | None) -> NoReturn:
    """Raise what the file system said in the words of the contract.

    Args:
        error: which it was.
        path: of the file; None where the folder was listed.
    """
    is_file = path is not None
    what = "The output folder" if path is None else (path if path.isprintable() else ascii(path))[:200] or "No path"
    match error:
        case beneath.LeadsOut():
            if not is_file:
                raise OutputOutside(f"{what} was exchanged for a link, which is not followed.") from error
            raise OutputOutside(
                f"{what} leads out of the output folder, or through too many links. Links are followed only within it:"
                " write the file itself there."
            ) from error
        case beneath.NoRegularFile():
            raise OutputNotAFile(f"{what} is no regular file.") from error
        case beneath.NotTheirs():
            raise OutputRefused(f"{what} does not belong to the user whom the job ran as.") from error
        case PermissionError():
            raise OutputRefused(
                f"{what} cannot be read: {error.strerror}. Leave it and its folders readable for their group, as they"
                " are by the umask that jobs begin with."
            ) from error
    if error.errno in _MISSING or isinstance(error, FileNotFoundError | NotADirectoryError):
        missing = f"The job left no file {what}." if is_file else "The attempt has no output folder, or has it no more."
        raise OutputMissing(missing) from error
    if error.errno in _AWAY:
        raise EngineUnavailable(f"{what} cannot be read now: {error.strerror}.") from error
    raise OutputRefused(f"{what} cannot be read: {error.strerror or type(error).__name__}.") from error
