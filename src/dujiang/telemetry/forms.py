"""One line of output -> the numbers it reports: the forms that training programs print.

Known: `key=value`, `key: value` and, for what is surely measured, `loss 0.3`; JSON objects, the dictionaries of the
Hugging Face Trainer, the progress lines of Keras, Lightning and tqdm. A line counts only when it names something that
is measured (loss, accuracy, learning rate ...), or gives a step or an epoch beside `key=value` pairs: a port or a
process number is no metric. Pure; every pattern is bounded, and nothing is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_LINE = 8192
MOST_PAIRS = 64

_NUMBER = r"(?>[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,5})?|[+-]?(?:nan|inf(?:inity)?)\b)"
_END = r"(?![\w.]*:\d|\.\d|[\w-]*\.[A-Za-z])"
_SPLIT = r"(?:(?P<split>train(?:ing)?|valid(?:ation)?|val|eval(?:uation)?|test|average|avg|mean)[ _-]+)?"
_PAIR = re.compile(
    rf"(?<![\w./@-]){_SPLIT}(?P<key>[a-z_][\w./@-]{{0,127}})\s{{0,3}}(?P<sign>[=:])\s{{0,8}}"
    rf"(?P<value>{_NUMBER}){_END}(?:/(?P<of>\d{{1,18}})\b)?",
    re.I,
)
_SAID = re.compile(
    rf"(?<![\w./@-]){_SPLIT}(?P<key>(?:[a-z]{{1,16}}_)?(?:loss|acc|accuracy|ppl|perplexity|lr|reward|grad_norm))\s{{1,3}}"
    rf"(?P<value>{_NUMBER}){_END}",
    re.I,
)
_QUOTED = re.compile(
    rf"['\"](?P<key>[^'\"\\]{{1,128}})['\"]\s{{0,3}}:\s{{0,3}}(?:['\"](?P<text>{_NUMBER})['\"]|(?P<value>{_NUMBER}))"
    r"\s{0,3}[,}\]\n]?",
    re.I,
)
_STEP = re.compile(
    r"(?<![A-Za-z])(?P<word>global[_ ]?step|steps?|iter(?:ation)?s?|epochs?|batch)\b['\"]?\s{0,3}[:=#]?\s{0,3}[\[(]?"
    r"\s{0,3}"
    r"(?P<n>\d{1,18})(?![\d.])(?:\s?/\s?(?P<of>\d{1,18}))?",
    re.I,
)
_BAR = re.compile(r"(?<![\d/.])(?P<n>\d{1,18})/(?P<of>\d{1,18})\s{1,3}[\[━╸]")
_SHARE = re.compile(r"\[(?P<n>\d{1,18})/(?P<of>\d{1,18})\s?\(")
_MEASURED = re.compile(
    r"(?:^|[_/.\- ])(?:loss|acc|accuracy|auc|auroc|f1|precision|recall|mae|mse|rmse|mape|nll|elbo|bpc|ppl|perplexity"
    r"|bleu|rouge\w{0,8}|m?iou|dice|reward|grad_?norm|lr|learning_rate|psnr|ssim|fid|wer|cer|tokens_per_s\w{0,8}"
    r"|samples_per_s\w{0,8}|steps_per_s\w{0,8}|throughput|mfu|tflops)(?:@?\d{1,3})?$",
    re.I,
)
_WORTH = (
    "loss", "acc", "step", "epoch", "iter", "batch", "lr", "rate", "auc", "auroc", "f1", "precision", "recall", "mae",
    "mse", "mape", "nll", "elbo", "bpc", "ppl", "perplexity", "bleu", "rouge", "iou", "dice", "reward", "norm", "psnr",
    "ssim", "fid", "wer", "cer", "tokens", "samples", "throughput", "mfu", "flops",
)  # fmt: skip
"""A line with none of these cannot count; looking for them is ten times as fast as the patterns."""
_NO_METRIC = re.compile(
    r"(?:^|[_.])(?:pid|ppid|port|rank|local_rank|world_size|seed|eta|gpu|cuda|node|nodes|nnodes|device|line|code|exit_?code"
    r"|id|job_?id|v_num|num_workers|workers|version|attempt|global_?step|steps?|iter(?:ation)?s?|epochs?|batch|total_?steps"
    r"|max_?steps|timestamp|time|date|host|addr)$|\.(?:py|cc|cpp|cu|c|h|go|rs|sh)$",
    re.I,
)
_EPOCH_ONLY = re.compile(r"^\W{0,8}epoch\s{0,3}[:=#]?\s{0,3}[\[(]?\s{0,3}(?P<n>\d{1,18})\b", re.I)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one line reports."""

    values: tuple[tuple[str, float], ...] = ()
    step: int | None = None
    """As printed, or made of epoch and batch; None when the line names none."""
    epoch: int | None = None
    """Named by the line; later bars of the same epoch may count on it."""


NOTHING = Reading()


def read_line(line: str, epoch: int | None = None) -> Reading:
    """Return what a line reports.

    Args:
        line: without its end; what is beyond `LONGEST_LINE` is not looked at.
        epoch: the last one that an earlier line named, for progress bars that only count batches.
    """
    line = line[:LONGEST_LINE]
    lowered = line.lower()
    if not any(word in lowered for word in _WORTH):
        return NOTHING
    named = _named(line)
    own_epoch = named.get("epoch", (None, None))[0]
    pairs, assigned = _pairs(line)
    measured = any(_MEASURED.search(name) for name, _ in pairs)
    if not pairs or not (measured or (named and assigned)):
        header = _EPOCH_ONLY.match(line)
        return Reading(epoch=int(header["n"])) if header else NOTHING
    step, by_epoch = _step(line, named, own_epoch if own_epoch is not None else epoch)
    values = dict(pairs[:MOST_PAIRS])
    if own_epoch is not None and not by_epoch:
        values.setdefault("epoch", float(own_epoch))
    return Reading(tuple(values.items()), step, own_epoch)


def _named(line: str) -> dict[str, tuple[int, int | None]]:
    """Return the counters that a line names: `epoch`, `batch` (with what it counts to) or `step`."""
    named: dict[str, tuple[int, int | None]] = {}
    for match in _STEP.finditer(line):
        word = match["word"].lower().rstrip("s")
        kind = "epoch" if word == "epoch" else "global" if word.startswith("global") else "step"
        named.setdefault(kind, (int(match["n"]), int(match["of"]) if match["of"] else None))
    return named


def _step(line: str, named: dict[str, tuple[int, int | None]], epoch: int | None) -> tuple[int | None, bool]:
    """Return the step, and whether it is the epoch itself.

    A count `n of N` within a known epoch becomes `epoch * N + n`, so that the steps of a run go on rising.
    """
    if "global" in named:
        return named["global"][0], False
    bar = _BAR.search(line) or _SHARE.search(line)
    count = named.get("step") or ((int(bar["n"]), int(bar["of"])) if bar else None)
    if count is not None:
        n, of = count
        return (epoch * of + n if of and epoch is not None and n <= of else n), False
    if "epoch" in named and not _fractional_epoch(line):
        return named["epoch"][0], True
    return None, False


def _fractional_epoch(line: str) -> bool:
    return re.search(r"epoch['\"]?\s{0,3}[:=]\s{0,3}\d{1,18}\.\d", line, re.I) is not None


def _pairs(line: str) -> tuple[list[tuple[str, float]], bool]:
    """Return the numbers of a line by name, and whether any was written as `key=value` or in a dictionary."""
    found: dict[str, float] = {}
    assigned = False
    if "{" in line and ("'" in line or '"' in line):
        for match in _QUOTED.finditer(line):
            _add(found, match["key"], match["text"] or match["value"])
        assigned = bool(found)
    if not found:
        for match in _PAIR.finditer(line):
            name = (f"{_split(match['split'])}{match['key']}").lower().rstrip(".-/")
            if match["of"] and int(match["of"]) and re.fullmatch(r"\d{1,18}", match["value"]):
                _add(found, name, str(int(match["value"]) / int(match["of"])))
            else:
                _add(found, name, match["value"])
            assigned = assigned or match["sign"] == "="
            if len(found) >= MOST_PAIRS:
                break
        for match in _SAID.finditer(line):
            found.setdefault(f"{_split(match['split'])}{match['key']}".lower(), float(match["value"]))
    return list(found.items()), assigned


def _split(word: str | None) -> str:
    if word is None or word.lower() in ("average", "avg", "mean"):
        return ""
    return {"training": "train", "valid": "val", "validation": "val", "evaluation": "eval"}.get(
        word.lower(), word.lower()
    ) + "_"


def _add(found: dict[str, float], name: str, value: str) -> None:
    if not _NO_METRIC.search(name) or (name == "epoch" and "." in value):
        found[name] = float(value)
