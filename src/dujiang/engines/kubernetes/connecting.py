"""How a cluster is reached: where it is, how its certificate is checked, and who the platform is there.

The official client reads kubeconfigs, runs their plugins and finds a Pod's own service account; what is kept of it here
is an address, a TLS context and a token that is read again while it may change. Importing it costs 0.2 s and 20 MB, so
only what has a Kubernetes cluster to reach imports this module.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config
from kubernetes.aio.config.dateutil import parse_rfc3339
from kubernetes.aio.config.exec_provider import ExecProvider
from kubernetes.aio.config.kube_config import (
    KubeConfigLoader,
    KubeConfigMerger,
    _cleanup_temp_files,
    _create_temp_file_with_content,
)

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.kubernetes.errors import SHOWN
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.kit.clock import Clock
from dujiang.kit.errors import did_you_mean

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WRONG = (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
"""What the client raises for a kubeconfig that is not one: it looks at few things before it uses them."""
_SPARE = timedelta(seconds=60)
"""How long before its end a plugin's token is asked for anew."""


@dataclass(slots=True)
class Access:
    """A way into a cluster."""

    server: str
    """`https://HOST:PORT`, with a path where the cluster lies behind one."""
    tls: ssl.SSLContext | None
    """None where the server is reached without TLS."""
    server_name: str | None
    """The name that the server's certificate is for, where it is not the host's."""
    proxy: str | None
    authorization: str
    """Header of every request; empty where a client certificate says who asks."""
    origin: str
    """Where this was read, for sentences."""
    identity: str
    """Differs when anything but the header does: connections of another identity are of no use."""
    renew: Callable[[], Awaitable[str | None]] = field(repr=False)
    """The header of a token that may have been replaced meanwhile; None where all must be read anew."""


async def connect(settings: KubernetesSettings, clock: Clock) -> Access:
    """Read how the cluster is reached.

    Raises:
        EngineUnavailable: no kubeconfig, not a kubeconfig, no such context, no credentials.
    """
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").is_file()
    if inside and not settings.kubeconfig and not settings.context:
        return _own_account()
    paths = settings.kubeconfig or os.environ.get("KUBECONFIG") or str(Path("~/.kube/config"))
    try:
        loader = _Loader(_merged(paths), paths, settings, clock)
        configuration = Configuration()
        await loader.load_and_set(configuration)
        if not hasattr(loader, "host"):
            raise ConfigException(f"cluster {loader.current_context['context']['cluster']} names no server")
        return _access(configuration, f"kubeconfig {paths}", loader.renewed)
    except EngineUnavailable:
        raise
    except _WRONG as error:
        raise EngineUnavailable(f"The kubeconfig {paths} cannot be used: {_reason(error)}; correct it.") from error
    finally:
        # The client writes inline certificates and keys to temporary files until the process ends; TLS has read them.
        _cleanup_temp_files()


def _own_account() -> Access:
    configuration = Configuration()
    try:
        load_incluster_config(configuration)

        async def renewed() -> str | None:
            return "Bearer " + (_SERVICE_ACCOUNT / "token").read_text().strip()

        return _access(configuration, "the Pod's service account", renewed)
    except _WRONG as error:
        raise EngineUnavailable(
            f"The Pod's service account cannot be used: {_reason(error)}; mount its token, or name a kubeconfig."
        ) from error


def _access(configuration: Any, origin: str, renew: Callable[[], Awaitable[str | None]]) -> Access:
    try:
        address = urlsplit(configuration.host)
        fine = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise EngineUnavailable(f"{configuration.host!r} of the {origin} is no address; correct `server`.")
    # Python from 3.13 on asks more of certificates than Go does: many clusters' own authorities would be refused.
    configuration.disable_strict_ssl_verification = True
    secure = configuration.host.startswith("https")
    return Access(
        server=configuration.host,
        tls=RESTClientObject(configuration).ssl_context if secure else None,
        server_name=configuration.tls_server_name or None,
        proxy=configuration.proxy or None,
        authorization=configuration.api_key.get("BearerToken", ""),
        origin=origin,
        identity=_identity(configuration),
        renew=renew,
    )


def _identity(configuration: Any) -> str:
    """Return a digest of what connections are made with."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    digest = hashlib.sha256()
    for each in (configuration.host, configuration.tls_server_name, configuration.proxy, configuration.verify_ssl):
        digest.update(f"{each}\0".encode())
    for path in files:
        digest.update(Path(path).read_bytes() + b"\0" if path else b"\0")
    return digest.hexdigest()


def _merged(paths: str) -> Any:
    """Return the merged kubeconfigs of a list of paths, looked at further than the client does."""
    existing = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().exists()]
    if not existing:
        raise EngineUnavailable(f"There is no kubeconfig at {paths}: set `kubeconfig` to the path of one.")
    for path in existing:
        content = yaml.safe_load(Path(path).expanduser().read_text())
        if not isinstance(content, dict) or not {"clusters", "contexts"} & set(content):
            raise ConfigException(f"{path} names no clusters and contexts")
    return KubeConfigMerger(os.pathsep.join(existing)).config


class _Loader(KubeConfigLoader):  # type: ignore[misc]
    """The client's reader of kubeconfigs, with a sentence where it would log and go on without credentials."""

    def __init__(self, merged: Any, paths: str, settings: KubernetesSettings, clock: Clock) -> None:
        names = [str(each["name"]) for each in merged.value["contexts"] if "name" in each.value]
        wanted = settings.context or str(merged.value.get("current-context") or "")
        if wanted not in names:
            which = f"no context {wanted!r}" if wanted else "no current context"
            raise EngineUnavailable(
                f"The kubeconfig {paths} has {which}: set `context` to one of {', '.join(names) or 'none'}."
                f"{did_you_mean(wanted, names)}"
            )
        self.token = ""
        super().__init__(merged, active_context=wanted)
        self._timeout_s, self._clock = settings.request_timeout_s, clock
        self._ends: datetime | None = None  # when what a plugin gave ends; None where it does not say

    async def renewed(self) -> str | None:
        """Return the header again: a token file is read anew. None: what a plugin gave is about to end."""
        if self._user is None:
            return ""
        if "exec" in self._user and self._ends is not None and self._ends - _SPARE <= self._clock.now():
            return None
        if self.provider in {"gcp", "oidc"}:
            await self._load_authentication()
        elif "tokenFile" in self._user and "token" not in self._user:
            self._load_user_token()
        return self.token

    def _load_user_token(self) -> bool | None:
        loaded = super()._load_user_token()
        if loaded:
            self.token = self.token.strip()  # a file's last line ends with a newline, which no header may hold
        return bool(loaded)

    async def load_from_exec_plugin(self) -> bool | None:
        """Ask the plugin, which the client does without a limit of time and without telling of failure.

        Raises:
            EngineUnavailable: it gave no credentials.
        """
        status = await _ask(self._user["exec"], self._timeout_s)
        ends = status.get("expirationTimestamp")
        self._ends = parse_rfc3339(ends) if ends else None
        if status.get("token"):
            self.token = f"Bearer {status['token']}"
        if status.get("clientCertificateData") and status.get("clientKeyData"):
            self.cert_file = _create_temp_file_with_content(status["clientCertificateData"])
            self.key_file = _create_temp_file_with_content(status["clientKeyData"])
        elif not status.get("token"):
            raise EngineUnavailable(
                f"{_plugin(self._user['exec'])} gave neither a token nor a certificate with its key."
            )
        return True


async def _ask(config: Any, timeout_s: float) -> dict[str, Any]:
    """Run a credential plugin as kubeconfigs name them; return the status of its answer."""
    provider = ExecProvider(config)
    said = {"apiVersion": provider.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
    environment = {**provider.env, "KUBERNETES_EXEC_INFO": json.dumps(said)}
    try:
        process = await asyncio.create_subprocess_exec(
            *provider.args,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = config.safe_get("installHint") or "install it where the platform runs"
        raise EngineUnavailable(
            f"{_plugin(config)} cannot be run ({error.strerror}): {' '.join(hint.split()).rstrip('.')}."
        ) from error
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError as error:
        raise EngineUnavailable(f"{_plugin(config)} did not answer within {timeout_s:g} s; run it by hand.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        told = " ".join(err.decode(errors="replace").split())[:SHOWN] or "nothing"
        raise EngineUnavailable(f"{_plugin(config)} failed with {process.returncode} and said: {told}; run it by hand.")
    try:
        status = json.loads(out)["status"]
        assert isinstance(status, dict)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise EngineUnavailable(f"{_plugin(config)} did not answer with an ExecCredential; run it by hand.") from error
    return status


def _plugin(config: Any) -> str:
    return f"The credential plugin {config['command']} of the kubeconfig"


def _reason(error: BaseException) -> str:
    """Return what is wrong as one clause."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"it is not YAML at line {error.problem_mark.line + 1} ({error.problem or error.context})"
    if isinstance(error, ssl.SSLError):
        return f"a certificate or key in it is not one ({error.reason or error.args[-1]})"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ConfigException):
        return str(error).strip().rstrip(".")
    return f"it is not as a kubeconfig should be ({type(error).__name__}: {error})"
