from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from tests.models.serving.conftest import Serving


def tensor(name: str, data: Any, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def x(*rows: list[float]) -> dict[str, Any]:
    return {"inputs": [tensor("x", [value for row in rows for value in row], [len(rows), len(rows[0])])]}


def ask(client: httpx.Client, model: str, request: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/v2/models/{model}/infer", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def output(answer: dict[str, Any], index: int = 0) -> np.ndarray[Any, Any]:
    given = answer["outputs"][index]
    return np.array(given["data"]).reshape(given["shape"])


def metric(client: httpx.Client, line: str) -> float:
    found = [row for row in client.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


# What is served


def test_health_and_metadata(client: httpx.Client) -> None:
    about = client.get("/v2").json()
    assert about["name"] == "dujiang"
    assert about["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.head("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/mlp").json() == {
        "name": "mlp",
        "versions": ["1.9.0", "1.10.0"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert client.get("/v2/models/mlp/versions/1.9.0/ready").json() == {"name": "mlp", "ready": True}


def test_answers_are_those_of_onnx_runtime_and_carry_model_version_and_id(
    client: httpx.Client, models: dict[str, Path]
) -> None:
    rows = [[0.1, -2.0, 3.5, 4.0], [1, 2, 3, 4]]
    answer = ask(client, "mlp", {**x(*rows), "id": "abc", "parameters": {"trace": True}})
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("mlp", "1.10.0", "abc")
    session = onnxruntime.InferenceSession(models["mlp"])
    expected = session.run(None, {"x": np.array(rows, dtype=np.float32)})[0]
    np.testing.assert_allclose(output(answer), expected, rtol=1e-5)
    older = client.post("/v2/models/mlp/versions/1.9.0/infer", json=x(*rows)).json()
    assert older["model_version"] == "1.9.0"


def burst(serving: Serving, requests: list[tuple[str, dict[str, Any]]]) -> list[tuple[int, dict[str, Any]]]:
    """Send every request on a connection of its own before reading any answer."""
    connections = [http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20) for _ in requests]
    for connection in connections:
        connection.connect()
    for connection, (model, request) in zip(connections, requests, strict=True):
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps(request))
    answers = [(answer.status, json.loads(answer.read())) for answer in (c.getresponse() for c in connections)]
    for connection in connections:
        connection.close()
    return answers


def test_a_crowd_gets_the_answers_that_each_gets_alone(client: httpx.Client, serving: Serving) -> None:
    rng = np.random.default_rng(3)
    requests = [("mlp", x(*rng.standard_normal((rng.integers(1, 5), 4)).tolist())) for _ in range(60)]
    requests += [("other", x(*rng.standard_normal((rng.integers(1, 5), 2)).tolist())) for _ in range(60)]
    requests = [requests[index] for index in rng.permutation(len(requests))]
    alone = [output(ask(client, *request)) for request in requests]
    runs = 'dujiang_serving_batch_rows_count{model="mlp",version="1.10.0"}'
    before = metric(client, runs)
    for one, (status, answer) in zip(alone, burst(serving, requests), strict=True):
        assert status == 200
        np.testing.assert_allclose(one, output(answer), rtol=1e-4, atol=1e-6)
    assert metric(client, runs) - before < 50, "nothing was batched, so nothing was tested"


def test_a_model_that_mixes_rows_is_never_batched(serving: Serving) -> None:
    for _, answer in burst(serving, [("mixes", x([n, -n])) for n in range(50)]):
        assert output(answer).tolist() == [[1, 1]]


def test_several_inputs_and_chosen_outputs(client: httpx.Client) -> None:
    inputs = [tensor("b", [[3, 4]], [1, 2]), tensor("a", [1, 2], [1, 2])]
    answer = ask(client, "two", {"inputs": inputs})
    assert [(item["name"], item["data"]) for item in answer["outputs"]] == [("sum", [4, 6]), ("product", [3, 8])]
    answer = ask(client, "two", {"inputs": inputs, "outputs": [{"name": "product"}]})
    assert [(item["name"], item["data"]) for item in answer["outputs"]] == [("product", [3, 8])]


@pytest.mark.parametrize(
    ("model", "datatype", "shape", "data"),
    [
        ("text", "BYTES", [1, 3], ["都江堰", "", "a\0b"]),
        ("flag", "BOOL", [2], [True, False]),
        ("half", "FP16", [2], [0.5, -65504]),
        ("byte", "UINT8", [3], [0, 255, 7]),
        ("long", "INT64", [1, 2], [2**63 - 1, -(2**63)]),
        ("long", "INT64", [0, 2], []),
    ],
)
def test_every_kind_of_tensor_goes_round(
    client: httpx.Client, model: str, datatype: str, shape: list[int], data: list[Any]
) -> None:
    answer = ask(client, model, {"inputs": [tensor("x", data, shape, datatype)]})
    assert answer["outputs"] == [{"name": "y", "datatype": datatype, "shape": shape, "data": data}]


def test_a_model_of_fixed_batch_size(client: httpx.Client) -> None:
    assert output(ask(client, "fixed", x([1, 2, 3, 4]))).shape == (1, 3)
    refused = client.post("/v2/models/fixed/infer", json=x([1, 2, 3, 4], [1, 2, 3, 4]))
    assert refused.status_code == 400
    assert "axis 0" in refused.json()["error"]


def test_values_that_json_cannot_spell_come_as_null_or_exactly_in_binary(client: httpx.Client) -> None:
    request = {"inputs": [tensor("x", [1.0, 0.0, -1.0], [3])]}
    given = ask(client, "log", request)["outputs"][0]
    assert given["data"] == [0, None, None]
    assert given["parameters"] == {"non_finite": 2}
    answer = client.post("/v2/models/log/infer", json={**request, "parameters": {"binary_data_output": True}})
    values = np.frombuffer(answer.content[int(answer.headers["inference-header-content-length"]) :], dtype="<f4")
    assert values[1] == -np.inf
    assert np.isnan(values[2])


def test_binary_tensors_both_ways(client: httpx.Client) -> None:
    a, b = np.array([[1, 2]], dtype="<f4"), np.array([[3, 4]], dtype="<f4")
    head = json.dumps(
        {
            "inputs": [
                {"name": name, "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
                for name in ("a", "b")
            ],
            "outputs": [{"name": "sum", "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    answer = client.post("/v2/models/two/infer", content=head + a.tobytes() + b.tobytes(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    start = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[start:], dtype="<f4").tolist() == [4, 6]
    short = client.post("/v2/models/two/infer", content=head + a.tobytes(), headers=headers)
    assert (short.status_code, short.json()["error"]) == (
        400,
        'Input "b" announces 8 bytes of binary data; 0 are left.',
    )


def test_metrics(client: httpx.Client) -> None:
    ask(client, "half", {"inputs": [tensor("x", [1], [1], "FP16")]})
    client.post("/v2/models/half/infer", json={})
    text = client.get("/metrics").text
    assert 'dujiang_serving_requests_total{code="400",model="half",version="1"}' in text
    assert 'dujiang_serving_queue_depth{model="half",version="1"} 0.0' in text
    assert 'dujiang_serving_request_seconds_bucket{le="+Inf",model="half",version="1"}' in text
    assert 'dujiang_serving_batch_rows_count{model="half",version="1"}' in text


# What is refused

GOOD = x([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[NaN,1,2,3]}]}', "JSON has no NaN"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", '"inputs" must be a non-empty list'),
        (b'{"inputs":[]}', '"inputs" must be a non-empty list'),
        (b'{"inputs":[1]}', "must be an object"),
        (json.dumps({"inputs": [tensor("z", [1], [1])]}).encode(), 'no input "z"'),
        (json.dumps({"inputs": [tensor("x", [1], [1])]}).encode(), "has 1 axes"),
        (json.dumps({"inputs": [tensor("x", [1, 2], [1, 2])]}).encode(), "axis 1 of shape [1, 2] must be 4"),
        (json.dumps({"inputs": [tensor("x", [1, 2], [-1, 4])]}).encode(), "none negative"),
        (json.dumps({"inputs": [tensor("x", [1, 2], [1, 4])]}).encode(), "holds 2 values"),
        (json.dumps({"inputs": [tensor("x", [1] * 4, [1, 4], "INT64")]}).encode(), "the model takes FP32"),
        (json.dumps({"inputs": [tensor("x", [1] * 4, [1, 4], "float")]}).encode(), "known: BOOL"),
        (json.dumps({"inputs": [tensor("x", ["1"] * 4, [1, 4])]}).encode(), "value 0 is a string"),
        (json.dumps({"inputs": [*GOOD["inputs"], *GOOD["inputs"]]}).encode(), "given twice"),
        (json.dumps({**GOOD, "outputs": [{"name": "Y"}]}).encode(), 'Did you mean "y"?'),
        (json.dumps({**GOOD, "id": 5}).encode(), '"id" must be a string'),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(client: httpx.Client, body: bytes, says: str) -> None:
    answer = client.post("/v2/models/mlp/infer", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]


def test_a_missing_input_is_named(client: httpx.Client) -> None:
    answer = client.post("/v2/models/two/infer", json={"inputs": [tensor("a", [1, 2], [1, 2])]})
    assert answer.status_code == 400
    assert "Missing input: b" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v2/models/nope/infer", 404, 'No model "nope" is served here. Served: "other"'),
        ("POST", "/v2/models/mpl/infer", 404, 'Did you mean "mlp"?'),
        ("POST", "/v2/models/mlp/versions/2/infer", 404, "Served: 1.9.0, 1.10.0"),
        ("GET", "/v2/models/mlp/versions/2", 404, "Served: 1.9.0, 1.10.0"),
        ("GET", "/", 404, "/v2/health/ready"),
        ("GET", "/v2/models/mlp/%ED%A0%80", 404, "There is nothing at"),
        ("GET", "/v2/models/mlp/infer", 405, "takes POST"),
        ("POST", "/v2/health/live", 405, "takes GET"),
    ],
)
def test_unknown_paths_and_methods(client: httpx.Client, method: str, path: str, status: int, says: str) -> None:
    answer = client.request(method, path, json={})
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize(
    "headers", [{"content-type": "text/csv"}, {"content-type": "application/json", "content-encoding": "gzip"}]
)
def test_other_media_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v2/models/mlp/infer", content=json.dumps(GOOD), headers=headers)
    assert answer.status_code == 415
    assert "error" in answer.json()


def test_too_long_a_body_is_refused_announced_or_not(client: httpx.Client) -> None:
    body = json.dumps({**GOOD, "id": "x" * 200_000}).encode()
    answer = client.post("/v2/models/mlp/infer", content=body)
    assert (answer.status_code, "takes 100000" in answer.json()["error"]) == (413, True)
    answer = client.post("/v2/models/mlp/infer", content=iter([body[:99_000], body[99_000:]]))
    assert answer.status_code == 413
    assert output(ask(client, "mlp", GOOD)).shape == (1, 3)


def test_a_bad_value_inside_the_model_fails_only_its_own_request(serving: Serving, client: httpx.Client) -> None:
    indices = [99 if n % 20 == 7 else n % 10 for n in range(60)]
    runs = 'dujiang_serving_batch_rows_count{model="lookup"'
    before = metric(client, runs)
    answers = burst(serving, [("lookup", {"inputs": [tensor("i", [index], [1], "INT64")]}) for index in indices])
    for index, (status, answer) in zip(indices, answers, strict=True):
        if index < 10:
            assert output(answer).tolist() == [index]
        else:
            assert status == 400
            assert "out of data bounds" in answer["error"]
            assert "/onnxruntime" not in answer["error"]
    assert metric(client, runs) - before < 50, "nothing was batched, so nothing was tested"


def raw(serving: Serving, payload: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as connection:
        connection.sendall(payload)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                answer += chunk
    return answer


@pytest.mark.parametrize(
    "payload",
    [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
     b"POST /v2/models/mlp/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
     b"POST /v2/models/mlp/infer HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef"],
)  # fmt: skip
def test_what_is_no_http_is_refused_and_harms_nobody(serving: Serving, client: httpx.Client, payload: bytes) -> None:
    assert raw(serving, payload)[:13] in (b"HTTP/1.1 400 ", b"")
    assert output(ask(client, "mlp", GOOD)).shape == (1, 3)


# Callers who leave, models that are slow, queues that are full


def turns(count: int) -> bytes:
    body = json.dumps({"inputs": [tensor("turns", [count], [], "INT64")]}).encode()
    head = f"POST /v2/models/spins/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def until(condition: Callable[[], bool]) -> None:
    """Ask again until it holds; the process answers in its own time."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_a_slow_model_leaves_health_answerable_and_callers_may_leave(serving: Serving, client: httpx.Client) -> None:
    runs = 'dujiang_serving_batch_rows_count{model="spins"'
    before = metric(client, runs)
    gone = 'dujiang_serving_requests_total{code="499",model="spins"'
    with socket.create_connection(("127.0.0.1", serving.port)) as first:
        first.sendall(turns(3000))  # about half a second
        until(lambda: metric(client, 'dujiang_serving_queue_depth{model="spins"') == 0)
        leaving = [socket.create_connection(("127.0.0.1", serving.port)) for _ in range(5)]
        for connection in leaving:
            connection.sendall(turns(3000))
        started = time.monotonic()
        until(lambda: metric(client, 'dujiang_serving_queue_depth{model="spins"') >= 4)
        assert client.get("/v2/health/live").status_code == 200
        assert time.monotonic() - started < 5
        for connection in leaving:
            connection.close()
        until(lambda: metric(client, gone) >= 4)
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
    assert output(ask(client, "mlp", GOOD)).shape == (1, 3)
    until(lambda: metric(client, 'dujiang_serving_queue_depth{model="spins"') == 0)
    assert metric(client, runs) - before <= 2, "who left is not run"


def test_a_full_queue_answers_503_with_retry_after(launch: Callable[..., Serving], models: dict[str, Path]) -> None:
    serving = launch(f"--model=spins={models['spins']}", "--max-queue", "1")
    with httpx.Client(base_url=serving.url, timeout=20) as client, contextlib.ExitStack() as open_:
        connections = [open_.enter_context(socket.create_connection(("127.0.0.1", serving.port))) for _ in range(5)]
        for connection in connections:
            connection.sendall(turns(2000))
        answers = [connection.recv(65536) for connection in connections]
        refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503")]
        assert len([answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]) >= 1
        assert refused
        assert b"retry-after: 1" in refused[0]
        assert b'{"error":"1 requests are waiting' in refused[0]
        assert metric(client, 'dujiang_serving_requests_total{code="503",model="spins"') == len(refused)


def test_sigterm_answers_what_is_in_flight_and_exits_0(launch: Callable[..., Serving], models: dict[str, Path]) -> None:
    serving = launch(f"--model=spins={models['spins']}", f"--model=mlp={models['mlp']}")
    with contextlib.ExitStack() as open_, httpx.Client(base_url=serving.url) as client:
        connections = [open_.enter_context(socket.create_connection(("127.0.0.1", serving.port))) for _ in range(3)]
        for connection in connections:
            connection.sendall(turns(1500))
        until(lambda: metric(client, 'dujiang_serving_queue_depth{model="spins"') >= 2)
        serving.process.terminate()
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert serving.process.wait(timeout=10) == 0
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", serving.port))


# Starting


def refused_start(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dujiang.models.serving", "--port", "0", *arguments],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_what_cannot_be_served_is_said_at_start(tmp_path: Path, serving: Serving, models: dict[str, Path]) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    good = f"--model=mlp={models['mlp']}"
    assert refused_start(f"--model=a={tmp_path / 'none.onnx'}")[0] == 1
    code, said = refused_start(f"--model=a={tmp_path / 'junk.onnx'}")
    assert (code, "not a model that ONNX Runtime can load" in said) == (1, True)
    code, said = refused_start(good, "--port", str(serving.port))
    assert (code, "cannot listen" in said) == (1, True)
    assert refused_start("--model=a")[0] == 2
    assert refused_start(good, good)[0] == 2


def test_the_process_stays_lean() -> None:
    code = """
import sys, dujiang.models.serving.__main__
heavy = {"sqlalchemy", "fastapi", "starlette", "pydantic", "httpx", "yaml"}
leaves = ("dujiang.models.serving", "dujiang.kit")
print(heavy & set(sys.modules), [n for n in sys.modules if n.startswith("dujiang.") and not n.startswith(leaves)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() ['dujiang.models']"
