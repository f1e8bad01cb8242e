"""What names a container image, and what is refused before any runtime sees it."""

from __future__ import annotations

import pytest

from dujiang.jobs.spec import SpecInvalid, read

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "reference",
    [
        "busybox",
        "busybox:1.36",
        "pytorch/pytorch:2.8.0-cuda12.9-cudnn9-runtime",
        "localhost/dujiang/tests:1",
        "localhost:5000/a/b/c",
        "registry.example.com:5000/team/train@" + DIGEST,
        "registry.example.com/team/train:v1@" + DIGEST,
        "nvcr.io/nvidia/pytorch:25.04-py3",
        "harbor:8443/library/x__y.z-w:_1",
    ],
)
def test_references_are_taken_as_they_are(reference: str) -> None:
    job = read({"run": "true", "image": reference})
    assert job.image == reference
    assert read(job.document()) == job


@pytest.mark.parametrize(
    "hostile",
    [
        "--privileged",
        "-v/:/host",
        "",
        " busybox",
        "busybox; rm -rf /",
        "busybox\nFROM scratch",
        "busybox $(id)",
        "$IMAGE",
        "../../etc/passwd",
        "/absolute/path",
        "Busybox",
        "a//b",
        "a/",
        "a:tag:tag",
        "a@md5:0123",
        "a@sha256:0123",
        "user:word@host/name",
        "a,b=c",
        'a"b',
        "registry.example.com:0/a",
        "name:" + "t" * 129,
        "a/" * 300 + "a",
        "büsybox",
        "busybox\0",
    ],
)
def test_what_is_no_reference_is_refused(hostile: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        read({"run": "true", "image": hostile})
    assert [problem.path for problem in caught.value.problems] == ["image"]


def test_the_scheme_of_another_tool_is_said_to_be_too_much() -> None:
    with pytest.raises(SpecInvalid, match=r'For example "nvcr\.io/nvidia/pytorch:25\.04-py3"'):
        read({"run": "true", "image": "docker://nvcr.io/nvidia/pytorch:25.04-py3"})


@pytest.mark.parametrize("word", ["container", "docker", "container_image"])
def test_other_words_for_it_are_known(word: str) -> None:
    with pytest.raises(SpecInvalid, match="Write image: registry/name:tag"):
        read({"run": "true", word: "busybox"})


def test_a_long_text_that_almost_fits_is_refused_at_once() -> None:
    with pytest.raises(SpecInvalid):
        read({"run": "true", "image": "a-" * 199 + "!"})
