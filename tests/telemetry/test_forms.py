"""Which numbers a line of output reports."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dujiang.telemetry.forms import LONGEST_LINE, MOST_PAIRS, read_line

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("line", "step", "values"),
    [
        ("epoch=3 loss=0.123 accuracy=0.94", 3, {"loss": 0.123, "accuracy": 0.94}),
        ("epoch 3/10 loss=0.5", 3, {"loss": 0.5}),
        ("loss: 0.12", None, {"loss": 0.12}),
        ("loss:0.12,acc:.9", None, {"loss": 0.12, "acc": 0.9}),
        ("Epoch 3/10 - loss: 0.12 - val_loss: nan", 3, {"loss": 0.12, "val_loss": NAN}),
        ("{'loss': 0.4, 'learning_rate': 5e-05, 'epoch': 1.0}", None,
         {"loss": 0.4, "learning_rate": 5e-5, "epoch": 1.0}),
        ("INFO:trainer:{'eval_loss': inf, 'epoch': 2.37}", None, {"eval_loss": INF, "epoch": 2.37}),
        ("{'loss': '0.4021', 'epoch': '0.05'}", None, {"loss": 0.4021, "epoch": 0.05}),
        ('{"step": 10, "loss": 1.5, "note": "x", "train": {"acc": 0.5}}', 10, {"loss": 1.5, "acc": 0.5}),
        ('{"global_step": 7, "epoch": 1, "loss": NaN}', 7, {"loss": NAN, "epoch": 1.0}),
        ("Epoch 3:  45%|####5     | 45/100 [00:10<00:12, 4.5it/s, v_num=0, train_loss=0.1]", 345,
         {"train_loss": 0.1, "epoch": 3.0}),
        ("Train Epoch: 1 [640/60000 (1%)]\tLoss: 2.10", 60640, {"loss": 2.1, "epoch": 1.0}),
        ("Test set: Average loss: 0.0513, Accuracy: 9837/10000 (98%)", None, {"loss": 0.0513, "accuracy": 0.9837}),
        ("Epoch [1/5], Step [100/600], Loss: 0.3", 700, {"loss": 0.3, "epoch": 1.0}),
        ("iter 100: loss 2.33, time 20ms", 100, {"loss": 2.33}),
        ("step 10 | loss 0.5 | lr 1e-3", 10, {"loss": 0.5, "lr": 1e-3}),
        ("Train Loss: 0.3 Val Loss: 0.4", None, {"train_loss": 0.3, "val_loss": 0.4}),
        ("step=5 loss=1e999", 5, {"loss": INF}),
        ("global_step: 77 loss: -inf", 77, {"loss": -INF}),
        ("step=9 temperature=36.6", 9, {"temperature": 36.6}),
        ("val acc = 98.2%", None, {"val_acc": 98.2}),
    ],
)  # fmt: skip
def test_what_programs_print(line: str, step: int | None, values: dict[str, float]) -> None:
    reading = read_line(line)
    assert reading.step == step
    assert list(dict(reading.values)) == list(values) or set(dict(reading.values)) == set(values)
    for name, value in reading.values:
        assert value == values[name] or (math.isnan(value) and math.isnan(values[name]))


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "2026-01-01 10:00:00 listening port=8080 pid=3", "train.py:33 loading", "version=1.2.3 acc=0.5.1",
        "loss=abc", "loss at 10:20:30", "lr finder: 12:30:01", "epochs: 10", "rate limit: 5", "loss=", "http://x/loss=3",
        "processed 3 of 5 steps", "learned=true", "step 3 done", "{'step': 3}",
    ],
)  # fmt: skip
def test_what_is_no_metric(line: str) -> None:
    assert read_line(line).values == ()


def test_a_bar_counts_on_the_epoch_named_before() -> None:
    assert read_line("Epoch 2/5").epoch == 2
    bar = "938/938 ━━━━━━━━ 3s 3ms/step - accuracy: 0.88 - loss: 0.42"
    assert (read_line(bar, 2).step, read_line(bar).step) == (2 * 938 + 938, 938)


@given(st.text(max_size=300))
def test_any_line_can_be_read(line: str) -> None:
    reading = read_line(line, 3)
    assert len(reading.values) <= MOST_PAIRS + 1


@pytest.mark.parametrize(
    "line",
    [
        "loss=" + "9" * 9000, "loss=" * 3000, "a" * 9000 + " loss=1", "'loss': " * 2000, "epoch " * 3000, "1/" * 5000,
        "loss=0." + "1.1" * 4000, "step 1 " + "x=1 " * 5000, "loss " * 4000, "{'" + "a" * 9000, "loss:" + " " * 9000,
        "train " * 2000 + "loss=1", "[1/1 " * 3000,
    ],
)  # fmt: skip
def test_hostile_lines_take_no_time(line: str) -> None:
    began = time.perf_counter()
    assert len(read_line(line).values) <= MOST_PAIRS + 1
    assert time.perf_counter() - began < 0.25
    assert len(line) > LONGEST_LINE or len(line) > 5000
