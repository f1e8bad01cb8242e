"""All tables of the platform in one place, for comparing them with a database."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final

from sqlalchemy import MetaData

from dujiang.kit.tables import metadata

_ROOT: Final = Path(__file__).resolve().parent.parent


def load() -> MetaData:
    """Import every module that declares tables and return the registry that holds them."""
    for name in modules():
        import_module(name)
    return metadata


def modules() -> Iterator[str]:
    """Yield the names of the modules that declare tables: `store.py` or `store/` of each context, `*_store.py`, kit."""
    files = {
        *_ROOT.glob("kit/*.py"), *_ROOT.glob("*/store.py"), *_ROOT.glob("*/store/*.py"), *_ROOT.glob("*/*_store.py"),
    }  # fmt: skip
    for file in sorted(files):
        parts = file.relative_to(_ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
