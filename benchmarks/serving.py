"""Serving two networks over HTTP: ours against plain FastAPI with ONNX Runtime, and against BentoML.

    python benchmarks/serving.py [--seconds 6] [--runs 3] [--connections 1,32,128] [--no-bento]

Same models, same client (wrk on one thread, which shares the cores with the server), same options of ONNX Runtime, one
server at a time; the runs of the servers alternate. BentoML gets an environment of its own in `.bench/`, from the
hashed lock, with access log, metrics and tracing off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from _bench import (
    ROOT,
    Missing,
    free_port,
    machine,
    met,
    need_programs,
    say,
    say_machine,
    scratch,
    stop,
)  # fmt: skip

NETS = {"small": (64, 256, 256, 10), "big": (512, 2048, 2048, 512)}
WEIGHTS = {name: sum(a * b + b for a, b in pairwise(sizes)) for name, sizes in NETS.items()}
THREADS = len(os.sched_getaffinity(0))
OURS, PLAIN, BENTO, BENTO_BATCHED = "Dujiang", "FastAPI + ORT", "BentoML", "BentoML, batched"

LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("%s"):read("*a")
function done(summary, latency)
  io.write(string.format(
    '\\nRESULT {"requests": %%d, "us": %%d, "status": %%d, "broken": %%d, "p50": %%d, "p99": %%d}\\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of the client."""

    per_s: float
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", default="1,32,128")
    parser.add_argument("--no-bento", action="store_true")
    args = parser.parse_args()
    connections = [int(word) for word in args.connections.split(",")]
    print(machine())
    try:
        need_programs(["wrk"], ["wrk"])
        bento = None if args.no_bento else bento_python()
    except Missing as why:
        raise SystemExit(f"This benchmark cannot run: {why}") from why
    with scratch("serving") as folder:
        models = {name: write_net(folder / f"{name}.onnx", sizes) for name, sizes in NETS.items()}
        scripts = {(name, form): write_script(folder, name, form) for name in NETS for form in ("v2", "bento")}
        found = measure(models, scripts, folder, bento, connections, args.seconds, args.runs)
    tell(found, connections, args.runs, args.seconds)
    say_machine("make bench B=serving")


def measure(
    models: dict[str, Path], scripts: dict[tuple[str, str], Path], folder: Path, bento: Path | None,
    connections: Sequence[int], seconds: int, runs: int,
) -> dict[tuple[str, str, int], list[Measured]]:  # fmt: skip
    """Run every server against every load, the servers in turn."""
    found: dict[tuple[str, str, int], list[Measured]] = {}
    for run in range(runs):
        for who in (OURS, PLAIN) if bento is None else (OURS, PLAIN, BENTO):
            with server(who, models, folder, bento) as url:
                for name in NETS:
                    for label, path, form in ways(who, name):
                        if run == 0:
                            check(url + path, form, models[name], name)
                        wrk(url + path, scripts[name, form], 8, 1)
                        for count in connections:
                            one = wrk(url + path, scripts[name, form], count, seconds)
                            found.setdefault((label, name, count), []).append(one)
                            print(f"... {label}, {name}, {count}: {one.per_s:.0f}/s", file=sys.stderr)
    return found


def tell(
    found: dict[tuple[str, str, int], list[Measured]], connections: Sequence[int], runs: int, seconds: int
) -> None:  # fmt: skip
    """Print the table, then the targets."""
    middle = {
        key: Measured(*(median(getattr(one, what) for one in ran) for what in ("per_s", "p50_ms", "p99_ms")))
        for key, ran in found.items()
    }
    rows = []
    for name in NETS:
        for label in dict.fromkeys(key[0] for key in middle):
            cells = []
            for count in connections:
                one = middle[label, name, count]
                cells.append(f"{one.per_s:.0f}/s, {one.p50_ms:.2f} / {one.p99_ms:.1f} ms")
            rows.append([f"{name} ({WEIGHTS[name] / 1e6:.2f} M weights)", label, *cells])
    say(
        f"Requests per second, p50 / p99 (medians of {runs} runs of {seconds} s)",
        ["network", "server", *(f"{count} connection{'s' * (count > 1)}" for count in connections)],
        rows,
    )
    say("Targets", ["what", "target", "measured", "met"], _targets(middle, connections))


def _targets(middle: dict[tuple[str, str, int], Measured], connections: Sequence[int]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name, factor in (("big", 4.0), ("small", 2.0)):
        if 32 in connections:
            ratio = middle[OURS, name, 32].per_s / middle[PLAIN, name, 32].per_s
            rows.append(
                [f"{name}, 32 connections, of {PLAIN}'s", f">= {factor:g}x", f"{ratio:.2f}x", met(ratio >= factor)]
            )
    for name in NETS:
        if 1 in connections:
            slower = middle[OURS, name, 1].p50_ms / middle[PLAIN, name, 1].p50_ms
            rows.append([f"{name}, a lone caller's p50, of {PLAIN}'s", "<= 1.1x", f"{slower:.2f}x", met(slower <= 1.1)])
    for name in NETS:
        for count in connections:
            theirs = [middle[who, name, count].per_s for who in (BENTO, BENTO_BATCHED) if (who, name, count) in middle]
            if theirs and count > 1:
                ratio = middle[OURS, name, count].per_s / max(theirs)
                rows.append(
                    [f"{name}, {count} connections, of BentoML's better", ">= 5x", f"{ratio:.1f}x", met(ratio >= 5)]
                )
    # A lone caller asks again only when it has its answer: its rate is one over its latency, which is compared above.
    crowds = [(middle[OURS, name, count], name, count) for name in NETS for count in connections if count > 1]
    for one, name, count in crowds:
        is_met = one.per_s >= 1000 and one.p99_ms < 200
        rows.append([
            f"{name}, {count} connections: requests/s and p99", ">= 1000/s, < 200 ms",
            f"{one.per_s:.0f}/s, {one.p99_ms:.1f} ms", met(is_met),
        ])  # fmt: skip
    return rows


def write_net(path: Path, sizes: Sequence[int]) -> Path:
    """Write a network: fully connected layers with biases and ReLU between them; x [n, first] -> y [n, last]."""
    rng = np.random.default_rng(1)
    nodes, weights, here = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        scale = np.sqrt(2 / fan_in)
        drawn = (rng.standard_normal((fan_in, fan_out)) * scale).astype(np.float32)
        weights += [
            numpy_helper.from_array(drawn, f"w{layer}"),
            numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{layer}"),
        ]
        is_last = layer == len(sizes) - 2
        nodes.append(helper.make_node("Gemm", [here, f"w{layer}", f"b{layer}"], ["y" if is_last else f"h{layer}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            here = f"r{layer}"
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", sizes[0]), ("y", sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "net", ends[0], ends[1], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def row_of(name: str) -> list[float]:
    """Return the input that every request carries."""
    return [round(float(value), 4) for value in np.random.default_rng(2).standard_normal(NETS[name][0])]


def body_of(name: str, form: str) -> dict[str, Any]:
    """Return the request in the form of a server."""
    row = row_of(name)
    if form == "bento":
        return {"x": [row]}
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}


def write_script(folder: Path, name: str, form: str) -> Path:
    """Write what wrk sends."""
    body, script = folder / f"{name}.{form}.json", folder / f"{name}.{form}.lua"
    body.write_text(json.dumps(body_of(name, form)))
    script.write_text(LUA % body)
    return script


def ways(who: str, name: str) -> list[tuple[str, str, str]]:
    """Return (label, path, form) of each way in which a server answers."""
    if who == BENTO:
        return [(BENTO, f"/{name}", "bento"), (BENTO_BATCHED, f"/{name}_batched", "bento")]
    return [(who, f"/v2/models/{name}/infer", "v2")]


def check(url: str, form: str, model: Path, name: str) -> None:
    """Ask once and compare with the model run here."""
    row = np.array([row_of(name)], dtype=np.float32)
    wanted = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(["y"], {"x": row})[0]
    answer = httpx.post(url, json=body_of(name, form), timeout=30, trust_env=False).raise_for_status().json()
    given = np.array(answer if form == "bento" else answer["outputs"][0]["data"], dtype=np.float32)
    if not np.allclose(given.ravel(), wanted.ravel(), rtol=1e-3, atol=1e-4):
        raise SystemExit(f"{url} answers {given.ravel()[:5]}, the model says {wanted.ravel()[:5]}.")


def wrk(url: str, script: Path, connections: int, seconds: int) -> Measured:
    """Ask for some seconds."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.partition("RESULT ")[2].splitlines()[0])
    if told["status"] or told["broken"] or not told["requests"]:
        raise SystemExit(f"{url} failed under load: {told}")
    return Measured(told["requests"] / told["us"] * 1e6, told["p50"] / 1000, told["p99"] / 1000)


@contextmanager
def server(who: str, models: dict[str, Path], folder: Path, bento: Path | None) -> Iterator[str]:
    """Run one server; give its address once it answers."""
    port, peers = free_port(), Path(__file__).parent / "peers"
    env = {**os.environ, "BENCH_THREADS": str(THREADS)} | {f"BENCH_{n.upper()}": str(p) for n, p in models.items()}
    given = [f"{name}={path}" for name, path in models.items()]
    if who == OURS:
        options = [word for each in given for word in ("--model", each)]
        command = [sys.executable, "-m", "dujiang.models.serving", *options, "--port", str(port)]
    elif who == PLAIN:
        command = [sys.executable, str(peers / "fastapi_app.py"), str(port), *given]
    else:
        env |= {"BENTOML_HOME": str(folder / "bento"), "BENTOML_DO_NOT_TRACK": "true"}
        command = [
            str(bento), "-m", "bentoml", "serve", "bento_service:Nets", "--working-dir", str(peers),
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
    with (folder / f"{who}.out").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    ready = {OURS: "/v2/health/ready", PLAIN: "/openapi.json", BENTO: "/readyz"}[who]
    try:
        _wait(process, url + ready, folder / f"{who}.out")
        yield url
    finally:
        stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, output: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"The server did not come up: {output.read_text()[-2000:]}")


def bento_python() -> Path:
    """Return the interpreter of BentoML's own environment; made when missing or when the lock has changed.

    Raises:
        Missing: it cannot be made.
    """
    lock, folder = ROOT / "requirements" / "bench.txt", ROOT / ".bench" / "bentoml"
    python, stamp = folder / "bin" / "python", folder / ".lock"
    if stamp.exists() and stamp.read_text() == lock.read_text():
        return python
    print("Making the environment of BentoML ...", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(lock)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(
                f"BentoML cannot be installed ({done.stderr.strip().splitlines()[-1]}); --no-bento goes without."
            )
    stamp.write_text(lock.read_text())
    return python


if __name__ == "__main__":
    main()
