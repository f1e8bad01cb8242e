"""The HTTP server around the application: where it listens, and how it stops without cutting anyone off.

A stream of server-sent events has no end of its own, and a server that waits for its connections would wait for ever.
So the door's `closing` is set at the first signal: streams end at once, other requests are finished, then it stops.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from dujiang.kit.errors import Conflict, Unavailable

GRACE_S = 10


class PortInUse(Conflict):
    """Another program listens there."""

    code, title = "port_in_use", "The port is in use"


def listen(host: str, port: int) -> socket.socket:
    """Take the address before anything else is started, so that a taken port costs nothing; 0 takes a free one.

    Raises:
        PortInUse: another program listens there.
        Unavailable: it is no address of this machine, or not for this account.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not SO_REUSEPORT: that would let two in
        taken.bind((host, port))
        taken.listen(2048)
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} of {host} is in use; choose another with --port, or stop what listens there."
            ) from error
        raise Unavailable(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error
    taken.set_inheritable(True)
    return taken


class Server(uvicorn.Server):
    """Serves the application on a socket until a signal or `stop`."""

    def __init__(self, app: ASGIApp, *, closing: asyncio.Event, grace_s: int = GRACE_S) -> None:
        """Take the application and what tells its streams to end; after `grace_s` open requests are cut off."""
        super().__init__(
            uvicorn.Config(
                app, loop="none", http="httptools", ws="none", lifespan="on", log_config=None, access_log=False,
                server_header=False, date_header=True, proxy_headers=False, timeout_graceful_shutdown=grace_s,
                timeout_keep_alive=65,
            )
        )  # fmt: skip
        self._closing = closing
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run_on(self, sock: socket.socket) -> None:
        """Serve until stopped; signals are handled while it runs."""
        self._loop = asyncio.get_running_loop()
        await self.serve(sockets=[sock])

    def stop(self) -> None:
        """Begin to stop, from the event loop's thread."""
        self._closing.set()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop at a signal; at a second Ctrl-C, stop without waiting.

        Uvicorn's own would raise the signal once more when all has been served, and so end the process before what
        stands around the server has put its things in order.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
