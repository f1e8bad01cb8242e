"""Tokens and the words of slurmrestd, without one: made and checked, read whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from dujiang.engines.contract import EngineRefused, EngineUnavailable
from dujiang.engines.slurm import rest_words
from dujiang.engines.slurm.asking import Batch, Portion
from dujiang.engines.slurm.by_rest import controller_of
from dujiang.engines.slurm.engine import SlurmEngine
from dujiang.engines.slurm.rest import Rest
from dujiang.engines.slurm.settings import SlurmSettings
from dujiang.engines.slurm.tokens import Tokens, minted
from dujiang.kit.clock import ManualClock, SystemClock

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"
BATCH = Batch("dj-j.1", "dujiang:m:j.1", ("g1", "g2"), Portion(2, 200, {"h100": 2, "": 1}), "/w", "/w/out", 4, 45,
              "train", "", "high")  # fmt: skip


def _secret(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def _tokens(clock: ManualClock, *, token_file: str = "", key_file: str = "") -> Tokens:
    return Tokens(user="ann", token_file=token_file, key_file=key_file, clock=clock)


def test_a_token_is_made_short_signed_and_renewed(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    tokens = _tokens(clock, key_file=_secret(tmp_path, KEY))
    headers = tokens.headers()
    head, body, signature = headers["X-SLURM-USER-TOKEN"].split(".")
    signed = hmac.digest(KEY, f"{head}.{body}".encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=") == signed
    said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (headers["X-SLURM-USER-NAME"], said["sun"], said["exp"] - said["iat"]) == ("ann", "ann", 600)
    clock.advance(400)
    assert tokens.headers() == headers
    clock.advance(100)
    assert tokens.headers() != headers


def test_a_token_is_read_as_scontrol_prints_it_until_it_expires(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    token = minted(KEY, "ann", int(T0.timestamp()), int(T0.timestamp()) + 60)
    tokens = _tokens(clock, token_file=_secret(tmp_path, f"SLURM_JWT={token}\n".encode()))
    assert tokens.headers()["X-SLURM-USER-TOKEN"] == token
    clock.advance(61)
    with pytest.raises(EngineUnavailable, match="has expired"):
        tokens.headers()
    _secret(tmp_path, b"of another kind")
    with pytest.raises(EngineUnavailable, match="holds no token"):
        tokens.headers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    with pytest.raises(EngineUnavailable, match="chmod 600"):
        _tokens(ManualClock(T0), key_file=_secret(tmp_path, KEY, mode)).headers()
    with pytest.raises(EngineUnavailable, match="cannot be read"):
        _tokens(ManualClock(T0), key_file=str(tmp_path / "none")).headers()


async def test_no_secret_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = SlurmSettings(work_dir="/w", rest_url="http://127.0.0.1:9", rest_key_file=_secret(tmp_path, KEY))
    tokens = _tokens(ManualClock(T0), key_file=settings.rest_key_file)
    with pytest.raises(EngineUnavailable) as told:
        await Rest(settings, tokens).version()
    spoken = f"{told.value!r} {told.value.__cause__!r} {tokens!r} {caplog.text}"
    assert tokens.headers()["X-SLURM-USER-TOKEN"] not in spoken


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, {"errors": [{"error_number": 1007, "error": "Protocol authentication error"}]}, "Slurm does not answer"),
        (500, {"errors": [{"error_number": -1, "error": "Unspecified error"}]}, "or refuses our token"),
        (200, {"errors": [{"error_code": 1800, "error": "Unable to contact slurm controller"}]}, "does not answer"),
        (401, "Authentication failure", "does not accept our token"),
        (200, "<html>", "none that is JSON"),
        (200, ["no object"], "none that is JSON"),
        (503, {}, "answers 503"),
    ],
)
async def test_what_is_no_answer(tmp_path: Path, status: int, body: object, told: str) -> None:
    def answer(asked: httpx.Request) -> httpx.Response:
        if asked.url.path == "/openapi/v3":
            return httpx.Response(200, json={"paths": {"/slurm/v0.0.38/jobs": {}, "/slurm/v0.0.42/jobs/": {}}})
        assert asked.url.path == "/slurm/v0.0.42/nodes"
        return httpx.Response(status, text=body) if isinstance(body, str) else httpx.Response(status, json=body)

    settings = SlurmSettings(work_dir="/w", rest_url="http://there", rest_key_file=_secret(tmp_path, KEY))
    tokens = _tokens(ManualClock(T0), key_file=settings.rest_key_file)
    rest = Rest(settings, tokens, transport=httpx.MockTransport(answer))
    with pytest.raises(EngineUnavailable, match=told):
        await rest.call("GET", "/nodes")


def test_a_job_in_the_words_of_each_version() -> None:
    new = rest_words.submission(BATCH, "#!/bin/sh", {"PATH": "/bin"}, "v0.0.42")["job"]
    assert (new["required_nodes"], new["nodes"], new["environment"], new["requeue"]) == (
        ["g1", "g2"], "2", ["PATH=/bin"], False,
    )  # fmt: skip
    assert (new["tres_per_node"], new["memory_per_node"]) == (
        "gres/gpu:h100:2,gres/gpu:1",
        {"set": True, "number": 200},
    )
    assert (new["kill_warning_delay"]["number"], new["kill_warning_flags"], new["qos"]) == (45, ["BATCH_JOB"], "high")
    old = rest_words.submission(BATCH, "#!/bin/sh", {"PATH": "/bin"}, "v0.0.38")["job"]
    assert (old["nodelist"], old["nodes"], old["environment"], old["no_requeue"]) == (
        "g1,g2", [2, 2], {"PATH": "/bin"}, True,
    )  # fmt: skip
    assert (old["gres"], old["memory_per_node"], old["time_limit"]) == ("gpu:h100:2,gpu:1", 200, 4)
    assert "account" not in {**new, **old}


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("CANCELLED", "CANCELLED"), (["RUNNING", "COMPLETING"], "COMPLETING"), (["RUNNING"], "RUNNING"),
        (["FAILED", "COMPLETING"], "COMPLETING"), (["PENDING", "REQUEUE_HOLD"], "REQUEUE_HOLD"), ([], ""), (None, ""),
    ],
)  # fmt: skip
def test_states_as_texts_and_as_lists(told: object, state: str) -> None:
    assert rest_words.state_of(told) == state


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rest_url": "here:6820"}, "http://HOST:PORT"),
        ({"rest_url": "http://here:6820"}, "wants a token"),
        ({"rest_url": "http://h:1", "rest_token_file": "/t", "sbatch_options": ("--x",)}, "sbatch_options"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(EngineRefused, match=told):
        controller_of(SlurmSettings(work_dir="/w", **settings), SystemClock())  # type: ignore[arg-type]


async def test_a_version_that_is_not_served_is_told(tmp_path: Path) -> None:
    def answer(_asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"paths": {"/slurm/v0.0.38/jobs": {}}})

    settings = SlurmSettings(
        work_dir="/w", rest_url="http://there", rest_key_file=_secret(tmp_path, KEY), rest_version="v0.0.42"
    )
    tokens = _tokens(ManualClock(T0 + timedelta(days=1)), key_file=settings.rest_key_file)
    with pytest.raises(EngineUnavailable, match="serves none of"):
        await Rest(settings, tokens, transport=httpx.MockTransport(answer)).version()


async def test_a_token_that_has_expired_is_told_also_where_slurms_commands_fail(tmp_path: Path) -> None:
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\necho 'scontrol: error: resolve_ctls_from_dns_srv: Unknown host' >&2\nexit 1\n")
    program.chmod(0o700)
    expired = minted(KEY, "ann", 0, 1)
    settings = SlurmSettings(
        work_dir=str(tmp_path), rest_url="http://127.0.0.1:1", commands=str(tmp_path),
        rest_token_file=_secret(tmp_path, expired.encode()),
    )  # fmt: skip
    engine = SlurmEngine(settings, clock=SystemClock())
    with pytest.raises(EngineUnavailable, match="has expired"):
        await engine.capabilities()
    _secret(tmp_path, minted(KEY, "ann", 0, 1 << 40).encode())
    with pytest.raises(EngineUnavailable, match=r"slurmrestd at http://127\.0\.0\.1:1 does not answer"):
        await engine.capabilities()
    await engine.close()
