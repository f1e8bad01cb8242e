"""Compiles the functions that are hot, and keeps what was compiled in a folder of the user, never in the package."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def _cache_folder() -> Path | None:
    """Return a folder of the user that can be written to, None when there is none: each process compiles anew then.

    It is named after the sources: numba looks at the file of a function only, not at those of the functions it calls.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    sources = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        text = path.read_bytes()
        if b"@compiled" in text or path.stem in ("cluster", "compiled"):
            sources.update(text)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "dujiang" / f"compiled-{sources.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


_FOLDER = _cache_folder()
if _FOLDER is not None:
    numba.config.CACHE_DIR = str(_FOLDER)


def compiled(function: Function) -> Function:
    """Return a function compiled to machine code at its first call."""
    return cast(Function, numba.njit(cache=_FOLDER is not None)(function))
