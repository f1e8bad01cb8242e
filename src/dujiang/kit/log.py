"""Structured logs: one JSON object a line on a file or pipe, colours on a terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from dujiang.kit.clock import Clock
from dujiang.kit.errors import DujiangError

_MOST_TROUBLES: Final = 1000


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


class Seldom:
    """Says when a trouble that is seen again and again is worth a line: when it begins, then each five minutes."""

    def __init__(self, clock: Clock, *, every_s: float = 300.0) -> None:
        self._clock, self._every_s = clock, every_s
        self._said_s: dict[object, float] = {}

    def is_due(self, about: object) -> bool:
        """Say whether to tell of a trouble that is there now; one that is told counts as told."""
        now_s = self._clock.monotonic_s()
        said_s = self._said_s.get(about)
        if said_s is not None and now_s - said_s < self._every_s:
            return False
        if len(self._said_s) >= _MOST_TROUBLES:  # of much that was never tried again
            self._said_s = {one: at_s for one, at_s in self._said_s.items() if now_s - at_s < self._every_s}
        self._said_s[about] = now_s
        return True

    def is_over(self, about: object) -> bool:
        """Note that a trouble is not there (any more); say whether it was told of."""
        return self._said_s.pop(about, None) is not None


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
