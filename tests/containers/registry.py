"""A registry of one image on a loopback port: as much of the distribution's protocol as a pull needs."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from tests.containers.images import config_of, python_layer

NAME = "team/python"
_OCI = "application/vnd.oci.image"


class Registry:
    """Serves `NAME` under every tag, by plain HTTP."""

    def __init__(self) -> None:
        layer = python_layer()
        config = config_of(layer)
        blobs = [(f"{_OCI}.config.v1+json", config), (f"{_OCI}.layer.v1.tar", layer)]
        described = [{"mediaType": kind, "digest": _digest(data), "size": len(data)} for kind, data in blobs]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": described[0],
                "layers": [described[1]],
            }
        ).encode()
        self._blobs = {_digest(data): data for _, data in blobs}
        self._manifest = manifest
        self.digest = _digest(manifest)
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(whole=True)

            def do_HEAD(self) -> None:
                self._answer(whole=False)

            def _answer(self, *, whole: bool) -> None:
                kind, data = registry.answer(self.path)
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data or b"")))
                self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
                if data is not None and "manifest" in kind:
                    self.send_header("Docker-Content-Digest", registry.digest)
                self.end_headers()
                if whole and data:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, path: str) -> tuple[str, bytes | None]:
        """Return the type and the content of a path; no content where there is none."""
        what = path.partition("?")[0].removeprefix(f"/v2/{NAME}/")
        if what.rstrip("/") == "/v2":
            return "application/json", b"{}"
        if what.startswith("manifests/"):
            return f"{_OCI}.manifest.v1+json", self._manifest
        return "application/octet-stream", self._blobs.get(what.removeprefix("blobs/"))

    def __enter__(self) -> Registry:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
