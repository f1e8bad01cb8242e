"""The command line: `dujiang`. It speaks to the platform over HTTP, like any other client; `up` alone starts it.

`main` decides what a person sees when something goes wrong: a sentence and an exit code, never a traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dujiang.cli.exits import Exit, of_status

if TYPE_CHECKING:
    from dujiang.client import Problem


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return 141  # as a shell reports a program that died of SIGPIPE
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        return int(Exit.INTERRUPTED)
    return code


def _run(args: Sequence[str] | None) -> int:
    from dujiang.cli.app import command
    from dujiang.kit.errors import DujiangError

    try:
        command().main(args=list(args) if args is not None else None, prog_name="dujiang")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it a failure of the command
            raise end.__context__ from None
        return _code_of(end)
    except DujiangError as error:
        return _explain(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}.", Exit.FAILED)
    except Exception as error:
        if os.environ.get("DUJIANG_DEBUG"):
            raise
        return _complain(
            f"This is a fault of the command line itself ({type(error).__name__}: {error}). "
            "DUJIANG_DEBUG=1 shows where; please report it.",
            Exit.FAILED,
        )
    return int(Exit.OK)


def _explain(error: Exception) -> int:
    from dujiang.cli.session import Stop
    from dujiang.client import Problem, Unreachable
    from dujiang.jobs.spec import SpecInvalid
    from dujiang.kit.errors import DujiangError

    match error:
        case Stop():
            return _complain(error.sentence, error.exit_code)
        case Unreachable():
            is_none = error.facts.get("started") or error.facts.get("no_address")
            hint = "" if is_none else " Start one with `dujiang up`."
            return _complain(f"{error.sentence.rstrip('.')}.{hint}", Exit.UNREACHABLE)
        case SpecInvalid():
            for problem in error.problems:
                _complain(str(problem), Exit.USAGE)
            return int(Exit.USAGE)
        case Problem():
            return _explain_problem(error)
        case DujiangError() if error.http_status in (409, 422):  # `up` in a home or on a port in use, bad settings
            return _complain(error.sentence, of_status(error.http_status))
    return _complain(str(error), Exit.FAILED)


def _explain_problem(error: Problem) -> int:
    status, sentence, facts = error.status, error.sentence, error.facts
    code = of_status(status)
    if status == 401 and "dujiang login" not in sentence and error.name != "sign_in_refused":
        sentence = sentence.removesuffix(" Sign in again.") + " Sign in with `dujiang login`."
        if os.environ.get("DUJIANG_TOKEN"):
            sentence += " DUJIANG_TOKEN is what was sent; it wins over what `dujiang login` keeps."
    problems = facts.get("problems")
    if isinstance(problems, list) and problems:
        for each in problems:
            place = each.get("path") or each.get("field") or ""
            _complain(
                f"{place + ': ' if place else ''}{each.get('message', '')} {each.get('instead', '')}".strip(), code
            )
        return int(code)
    request = f" (request {facts['request_id']})" if status >= 500 and facts.get("request_id") else ""
    return _complain(sentence + request, code)


def _complain(sentence: str, code: Exit) -> int:
    from dujiang.cli.output import clean

    with contextlib.suppress(OSError):
        sys.stdout.flush()
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write(f"{chr(27) + '[31m' if red else ''}Error:{chr(27) + '[0m' if red else ''} {clean(sentence)}\n")
    return int(code)


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return int(Exit.OK)
    if isinstance(end.code, int):
        return end.code
    return _complain(str(end.code), Exit.FAILED)


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read our output is gone."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
