"""Command line of the serving process: arguments, the socket, signals. Exits 0 after SIGTERM, 2 on wrong arguments,
1 when a model cannot be loaded or the port is taken.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType

import numpy as np
import uvicorn

from dujiang.kit import log
from dujiang.kit.errors import DujiangError
from dujiang.models.serving.batching import Limits
from dujiang.models.serving.runtime import OnnxModel
from dujiang.models.serving.server import MAX_BODY_BYTES, Served, ServingApp, serve_model

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
KEEP_ALIVE_S = 75  # longer than the 60 s after which common proxies drop an idle connection, so that they close first


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """`NAME=PATH[,version=V][,max_batch=N][,threads=N]`."""

    name: str
    path: Path
    version: str = "1"
    max_batch: int | None = None
    threads: int | None = None


def parse_model(text: str) -> ModelArgument:
    """Read one `--model`. Options are taken from the right, so that a path may hold commas and equal signs.

    Raises:
        argparse.ArgumentTypeError: with a sentence for the user.
    """
    name, equals, rest = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH[,version=V][,max_batch=N][,threads=N]")
    options: dict[str, str] = {}
    while found := re.fullmatch(r"(.*),(version|max_batch|threads)=([^,]*)", rest, flags=re.DOTALL):
        rest = found[1]
        options.setdefault(found[2], found[3])
    numbers = {key: _count(options[key]) for key in ("max_batch", "threads") if key in options}
    version_ = options.get("version", "1")
    if not rest or not NAME.fullmatch(version_):
        raise argparse.ArgumentTypeError(f"{text!r}: the path is empty or the version is not like 1.0.0")
    return ModelArgument(name, Path(rest), version_, numbers.get("max_batch"), numbers.get("threads"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dujiang.models.serving",
        description="Serve ONNX models over HTTP by the Open Inference Protocol V2, with dynamic batching.",
    )
    parser.add_argument(
        "--model", action="append", required=True, type=parse_model, metavar="NAME=PATH[,version=V][,max_batch=N]"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=None, help="default: $PORT, or 8000; 0 takes a free one")
    parser.add_argument("--threads", type=_count, default=None, help="per run of a model; default: this job's cores")
    parser.add_argument("--max-batch", type=_count, default=Limits.max_rows, help="rows in one run (default 32)")
    parser.add_argument("--max-queue", type=_count, default=Limits.max_waiting, help="requests waiting per model")
    parser.add_argument("--max-wait-s", type=float, default=Limits.max_wait_s, help="then a waiting request gets 503")
    parser.add_argument("--inline-below-ms", type=float, default=Limits.inline_below_s * 1000)
    parser.add_argument("--max-body-bytes", type=_count, default=MAX_BODY_BYTES)
    parser.add_argument("--grace-s", type=_count, default=25, help="for requests in flight after SIGTERM")
    options = parser.parse_args(arguments)
    if options.port is None:
        given = os.environ.get("PORT", "8000")
        if not given.isdecimal():
            parser.error(f"PORT is {given!r}, which is not a number")
        options.port = int(given)
    taken = [(model.name, model.version) for model in options.model]
    if len(set(taken)) != len(taken):
        parser.error("two models have the same name and version")
    return options


def cpu_share() -> int:
    """Return how many threads the cores of this job are worth: its quota, else the cores it may run on; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        quota, period = "max", "1"
    share = cores if quota == "max" else min(cores, int(quota) / int(period))
    given = os.environ.get("DUJIANG_CPU_MILLI", "")
    if given.isdecimal() and int(given) > 0:
        share = min(share, int(given) / 1000)
    return max(1, int(share))


def load(options: argparse.Namespace) -> list[Served]:
    """Load and try out every model.

    Raises:
        CannotLoad: one of them cannot be served.
    """
    models: list[Served] = []
    for argument in options.model:
        model = OnnxModel(argument.path, threads=argument.threads or options.threads or cpu_share())
        model.probe(np.random.default_rng(0))
        limits = Limits(
            max_rows=argument.max_batch or options.max_batch,
            max_waiting=options.max_queue,
            max_wait_s=options.max_wait_s,
            inline_below_s=options.inline_below_ms / 1000,
        )
        models.append(serve_model(argument.name, argument.version, model, limits, monotonic_s=time.perf_counter))
    return models


class _Server(uvicorn.Server):
    """Tells the application that it is about to stop, as soon as the signal comes."""

    def __init__(self, config: uvicorn.Config, app: ServingApp) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.stop()
        super().handle_exit(sig, frame)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    options = parse(arguments)
    log.configure()
    logger = log.get(__name__)
    try:
        listener = _bind(options)
    except OSError as error:
        logger.error("cannot listen", host=options.host, port=options.port, reason=str(error))
        return 1
    try:
        models = load(options)
    except DujiangError as error:
        logger.error("cannot serve", reason=error.sentence)
        return 1
    app = ServingApp(
        models,
        monotonic_s=time.perf_counter,
        server_version=_version(),
        max_body_bytes=options.max_body_bytes,
    )
    config = uvicorn.Config(
        app, http="httptools", loop="uvloop", ws="none", lifespan="off", interface="asgi3", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=options.grace_s, backlog=2048,
    )  # fmt: skip
    # uvicorn raises the signal again once it has stopped in good order, which would turn exit 0 into death by SIGTERM.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    gc.collect()
    gc.freeze()  # what is loaded stays; the collector need not walk it again and again
    host, port = listener.getsockname()[:2]
    logger.info(
        "serving",
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        models=[f"{served.name}:{served.version}" for served in models],
    )
    _Server(config, app).run(sockets=[listener])
    app.close()
    logger.info("stopped")
    return 0


def _bind(options: argparse.Namespace) -> socket.socket:
    """Take the port before loading, so that a taken one is said at once; nobody can connect until uvicorn listens."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    return listener


def _version() -> str:
    try:
        return version("dujiang")
    except PackageNotFoundError:
        return "0"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
