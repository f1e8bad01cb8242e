"""The words that fields are made of: names, paths, sizes, durations, shares.

Schema patterns list the usual spellings only: they must not promise too much.
"""

from __future__ import annotations

import re

from dujiang.kit.spec.readers import (
    Quantity,
    Schema,
    Text,
)
from dujiang.kit.units import format_bytes, format_duration, format_milli, parse_bytes, parse_duration_s, parse_milli


def mended_name(text: str) -> str:
    """Return the nearest name that a job may have, or an empty string when nothing of the text can stay."""
    return re.sub(r"[^a-z0-9]+", "-", text[:200].lower().replace("'", "")).strip("-")[:63].strip("-")


NAME = Text(
    "a name",
    63,
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    "A name has up to 63 lower-case letters, digits and dashes, with a letter or digit at both ends.",
    mended_name,
)
PROJECT = Text(
    "a project's name or id",
    63,
    r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?",
    "Write the project's name or id as `dujiang projects` shows it.",
)
VARIABLE = Text(
    "a variable's name",
    128,
    r"[A-Za-z_][A-Za-z0-9_]{0,127}",
    "A variable has letters, digits and underscores and begins with no digit.",
    lambda text: re.sub(r"[^A-Za-z0-9_]", "_", text[:128]).lstrip("0123456789"),
)
PARAM = Text(
    "a parameter's name",
    63,
    r"[A-Za-z_][-.A-Za-z0-9_]{0,62}",
    "A parameter has letters, digits, dots, dashes and underscores, and begins with a letter.",
)
LABEL = Text(
    "a label's name",
    63,
    r"[A-Za-z0-9]([-_./A-Za-z0-9]{0,61}[A-Za-z0-9])?",
    "A label has letters, digits, dots, dashes, slashes and underscores.",
)
PATH = Text("a path", 4096, r"[^\u0000]+")
CHECKPOINT_PATH = Text("an absolute path", 4095, r"/[^\u0000]*", "Write a path that begins with a slash.")
INNER_PATH = Text(
    "a path inside the output folder",
    1024,
    r"[A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)*",
    "Write a path relative to DUJIANG_OUTPUT_DIR, without `..`, such as model.onnx.",
)
_LABEL_OF_HOST = "[A-Za-z0-9][-A-Za-z0-9]{0,62}"
_PORT = "(:[1-9][0-9]{0,4})"
_REGISTRY = rf"((localhost|{_LABEL_OF_HOST}([.]{_LABEL_OF_HOST}){{1,8}}){_PORT}?|{_LABEL_OF_HOST}{_PORT})"
_PART = "[a-z0-9]+(([.]|_{1,2}|-{1,8})[a-z0-9]+)*"
_IMAGE = rf"({_REGISTRY}/)?{_PART}(/{_PART})*(:[A-Za-z0-9_][-A-Za-z0-9_.]{{0,127}})?(@sha256:[0-9a-f]{{64}})?"
"""As the distribution project writes references, less what no registry is called in practice."""


def _mended_image(text: str) -> str:
    mended = re.sub(r"^[a-z]+://", "", text.strip()).rstrip("/")
    return mended if re.fullmatch(_IMAGE, mended) else ""


IMAGE = Text(
    "an image's reference",
    400,
    _IMAGE,
    "Write registry/name:tag, or registry/name@sha256:... for one that never changes.",
    _mended_image,
)
VENDOR = Text("a vendor", 32, r"[a-z][-a-z0-9]{0,31}", "Vendors are in lower case: nvidia, amd, huawei.", str.lower)
MODEL = Text("a device model", 64, r"[A-Za-z0-9]([- _./A-Za-z0-9]{0,62}[A-Za-z0-9])?", "For example H100.")

_SIZES = (
    r"^([1-9][0-9]{0,4}(\.(5|25|75))?[GM]i?B?|[1-9][0-9]{5,7}MiB|[1-9][0-9]{4,6}KiB"
    r"|([1-9][0-9]?(\.(5|25|75))?|1[0-9]{2}|2[0-4][0-9]|25[0-6])Ti?B?)$"
)
_D, _H, _M, _S = "[1-9][0-9]?d", "[1-9][0-9]{0,2}h", "[1-9][0-9]{0,3}m", "[1-9][0-9]{0,5}s"
_DURATIONS = f"^({_D}({_H})?({_M})?({_S})?|{_H}({_M})?({_S})?|{_M}({_S})?|{_S})$"
UP_TO_AN_HOUR = "^(1h|([1-9]|[1-5][0-9])m(([1-9]|[1-5][0-9])s)?|[1-9][0-9]{0,2}s)$"


def size(least: int, most: int) -> Quantity[int]:
    """Return the reader of an amount of bytes between two."""
    described = {
        "anyOf": [{"type": "string", "pattern": _SIZES}, {"type": "integer", "minimum": least, "maximum": most}]
    }
    return Quantity("a size", parse_bytes, least, most, format_bytes, described, "Write a unit: 16GiB, 512MiB.")


def duration(least: float, most: float, spellings: str = _DURATIONS) -> Quantity[float]:
    """Return the reader of a number of seconds between two, written with units; `spellings` is for the schema."""
    number = {"type": "number", "minimum": least, "maximum": most}
    described = {"anyOf": [{"type": "string", "pattern": spellings}, number]}
    return Quantity("a duration", parse_duration_s, least, most, format_duration, described, "Write 2h30m, 90s or 1d.")


def share(least: int, most: int, described: list[Schema], advice: str = "") -> Quantity[int]:
    """Return the reader of thousandths between two; `described` is for the schema."""
    return Quantity("an amount", parse_milli, least, most, format_milli, {"anyOf": described}, advice)
