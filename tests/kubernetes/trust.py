"""Who may speak to a test cluster: its certificates, keys, tokens, and files that name them for clients."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import time
from pathlib import Path

from tests.kubernetes.machine import path_of

# Name: its groups. The first is all-powerful; `platform` and `stranger` may nothing until a test lets them.
USERS = {"admin": "system:masters", "platform": "", "stranger": ""}
PARTS = ("system:kube-controller-manager", "system:kube-scheduler")
CA_NAME = "/CN=tests"
CERTIFICATE = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc"
ISSUER = "https://kubernetes.default.svc"


class Trust:
    """Certificates and tokens in a folder."""

    def __init__(self, folder: Path, server: str, nodes: list[str]) -> None:
        """Make them.

        Args:
            folder: where they are written.
            server: address of the API server.
            nodes: names of the nodes, each of which gets a token.
        """
        self.folder, self.server = folder, server
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        for ca in ("ca", "other-ca"):
            self._key(ca)
            self._openssl(
                "req", "-x509", "-new", "-key", f"{ca}.key", "-out", f"{ca}.crt", "-days", "2", "-subj", CA_NAME
            )
        self._certify("server", "/CN=kube-apiserver")
        self._certify("kubelet-client", "/O=system:masters/CN=kube-apiserver")
        self._openssl("genrsa", "-out", "accounts.key", "2048")
        groups = {**USERS, **dict.fromkeys(PARTS, ""), **{f"system:node:{name}": "system:nodes" for name in nodes}}
        self.tokens = {name: secrets.token_hex(16) for name in groups}
        lines = [f'{self.tokens[name]},{name},{name},"{of}"' for name, of in groups.items()]
        (folder / "tokens.csv").write_text("\n".join(lines) + "\n")

    def kubeconfig(self, user: str = "admin", *, token: str | None = None, ca: str | None = "ca") -> Path:
        """Write a file for clients.

        Args:
            user: whose token stands in it.
            token: another token instead.
            ca: "ca", or "other-ca" which did not sign the server's certificate; None checks no certificate.
        """
        shown = token or self.tokens[user]
        named = f"{user.replace(':', '-')}-{ca}" + (f"-{secrets.token_hex(4)}" if token else "")
        checked = {"insecure-skip-tls-verify": True} if ca is None else {"certificate-authority-data": self.encoded(ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.server, **checked}}],
            "users": [{"name": user, "user": {"token": shown}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
        }
        path = self.folder / f"{named}.kubeconfig"
        path.write_text(json.dumps(content, indent=1))
        path.chmod(0o600)
        return path

    def encoded(self, ca: str) -> str:
        """Return a certificate as a kubeconfig holds it."""
        return base64.b64encode((self.folder / f"{ca}.crt").read_bytes()).decode()

    def account_token(self, namespace: str, account: str, uid: str, *, lives_s: float) -> str:
        """Return a token of a service account, signed with the cluster's own key.

        Args:
            namespace: of the account.
            account: its name.
            uid: its unique id, as the API server says it.
            lives_s: from now; below zero it is over already.
        """
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": [ISSUER],
            "iat": min(now, int(now + lives_s)) - 60,
            "nbf": min(now, int(now + lives_s)) - 60,
            "exp": int(now + lives_s),
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        }
        words = [path_of("openssl"), "pkey", "-in", "accounts.key", "-pubout", "-outform", "DER"]
        public = subprocess.run(words, cwd=self.folder, capture_output=True, check=True).stdout
        head = {"alg": "RS256", "kid": _base64url(hashlib.sha256(public).digest())}
        signed = ".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        words = [path_of("openssl"), "dgst", "-sha256", "-sign", "accounts.key"]
        signature = subprocess.run(
            words, cwd=self.folder, input=signed.encode(), capture_output=True, check=True
        ).stdout
        return f"{signed}.{_base64url(signature)}"

    def _certify(self, name: str, subject: str) -> None:
        self._key(name)
        self._openssl("req", "-new", "-key", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (self.folder / f"{name}.ext").write_text(f"{CERTIFICATE}\nextendedKeyUsage=serverAuth,clientAuth\n")
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "2", *signing)

    def _key(self, name: str) -> None:
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(
            [path_of("openssl"), *words], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"openssl {' '.join(words)}: {done.stderr.strip()}")


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
