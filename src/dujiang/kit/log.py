"""Structured logs: one JSON object a line on a file or pipe, colours on a terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog

from dujiang.kit.errors import DujiangError


def configure(*, level: str = "info", file: Path | None = None, stream: TextIO | None = None) -> None:
    """Send this process's logs to a file (appended) or a stream (default: standard error); other libraries' too."""
    target: TextIO = file.open("a", encoding="utf-8", buffering=1) if file else (stream or sys.stderr)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if target.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _Handler(target)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn.access", "httpx", "aiosqlite", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; one that cannot be written (a full disk) is left out, and is nobody's trouble."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the library would print a traceback for each line."""


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def failure(logger: structlog.stdlib.BoundLogger, what: str, error: BaseException, **facts: Any) -> None:
    """Log one line about an error: a warning for what passes by itself, a traceback only for what nobody foresaw."""
    if isinstance(error, DujiangError):
        level = logger.warning if error.retryable else logger.error
        level(what, reason=error.sentence, **facts)
    else:
        logger.error(what, reason=reason(error), exc_info=error, **facts)


def reason(error: BaseException) -> str:
    """Return what an error says, on one line."""
    if isinstance(error, DujiangError):
        return error.sentence
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
