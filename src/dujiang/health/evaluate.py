"""`python -m dujiang.health.evaluate FILE`: how often the verdict is right on labelled logs.

FILE holds one JSON object a line: `log`, `blame` (`none` for a log of something that did not fail), `cause` (in
snake_case) and `evidence_line`; `id` is shown with `--wrong`. A log alone says nothing about the exit, so each is
judged as the output of an attempt that left with exit code 1. Right for `none` means that nothing was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dujiang.engines.contract import AttemptKey, End, Observation, Phase
from dujiang.health.causes import Cause
from dujiang.health.diagnose import Diagnoser
from dujiang.health.signatures import load_folder, load_shipped
from dujiang.jobs.diagnosis import AttemptFacts, Blame, Diagnosis

NONE = "none"
_ALSO_CALLED: Mapping[str, Cause] = {
    "gpu_oom": Cause.GPU_OUT_OF_MEMORY, "host_oom": Cause.HOST_OUT_OF_MEMORY, "user_code_bug": Cause.USER_CODE_ERROR,
    "shape_or_dtype_mismatch": Cause.SHAPE_OR_DTYPE_MISMATCH, "nan_or_divergence": Cause.NAN_OR_DIVERGENCE,
    "python_dependency": Cause.DEPENDENCY_MISSING, "import_or_symbol": Cause.IMPORT_FAILED,
    "dataset_or_file_missing": Cause.FILE_MISSING, "checkpoint_write_fail": Cause.CHECKPOINT_WRITE_FAILED,
    "filesystem_permission": Cause.PERMISSION_DENIED, "auth_or_token": Cause.AUTH_FAILED,
    "cublas_cudnn_init": Cause.CUDA_LIBRARY_FAILED, "cuda_version_or_arch": Cause.CUDA_VERSION_MISMATCH,
    "gpu_hw_ecc": Cause.GPU_ECC_ERROR, "gpu_fell_off_bus": Cause.GPU_FELL_OFF_BUS,
    "gpu_thermal_power": Cause.GPU_THERMAL_OR_POWER, "gpu_xid_other": Cause.GPU_FAULT,
    "nvlink_nvswitch": Cause.NVLINK_FAULT, "nccl_config": Cause.NCCL_CONFIGURATION,
    "nccl_network_ib": Cause.NCCL_NETWORK, "rank_desync_or_peer_died": Cause.PEER_DIED,
    "rendezvous_failure": Cause.RENDEZVOUS_FAILED, "mpi_launch": Cause.MPI_LAUNCH_FAILED,
    "shm_exhausted": Cause.SHARED_MEMORY_EXHAUSTED, "storage_io": Cause.STORAGE_FAULT,
    "network_dns_or_proxy": Cause.NETWORK_FAULT, "image_pull": Cause.IMAGE_UNAVAILABLE,
    "container_runtime_gpu": Cause.CONTAINER_RUNTIME, "pod_unschedulable": Cause.UNSCHEDULABLE,
    "slurm_config_or_gres": Cause.SCHEDULER_CONFIGURATION, "slurm_node_fail": Cause.SCHEDULER_UNREACHABLE,
    "inference_overload_or_timeout": Cause.SERVICE_OVERLOADED, "preempted_or_evicted": Cause.PREEMPTED,
    "segfault_native": Cause.SEGMENTATION_FAULT, "none": Cause.UNKNOWN,
}  # fmt: skip
"""The causes of the labels under our names, where the words differ by more than their spelling."""


@dataclass(slots=True)
class Score:
    """Counts over labelled logs."""

    cases: int = 0
    failures: int = 0
    """Cases that are labelled with a real failure; the evidence is asked of these."""
    blame_right: int = 0
    cause_right: int = 0
    evidence_right: int = 0
    false_alarms: int = 0
    """Something was found where nothing had failed."""
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(labelled blame, given blame) -> cases."""
    wrong: list[str] = field(default_factory=list)


def evaluate(cases: Iterable[Mapping[str, Any]], diagnoser: Diagnoser) -> Score:
    """Return the score of a diagnoser on labelled logs."""
    score = Score()
    for case in cases:
        verdict = diagnoser(_facts(str(case["log"])))
        expected, given = str(case["blame"]), _given(verdict)
        cause_right = verdict.cause == _expected_cause(str(case["cause"])).value
        evidence_right = same_line(str(case["evidence_line"]), verdict.evidence[0].line if verdict.evidence else "")
        score.cases += 1
        score.blame_right += expected == given
        score.cause_right += cause_right
        score.confusion[expected, given] += 1
        if expected == NONE:
            score.false_alarms += given != NONE
        else:
            score.failures += 1
            score.evidence_right += evidence_right
        if expected != given or not cause_right or (expected != NONE and not evidence_right):
            line = verdict.evidence[0].line[:100] if verdict.evidence else ""
            score.wrong.append(
                f"{case.get('id', score.cases)}: {case['cause']} / {expected}, given {verdict.cause} / {given}"
                f" by {verdict.signature or '-'}: {line}"
            )
    return score


def same_line(expected: str, given: str) -> bool:
    """Say whether two quotations are of the same line: one holds the other once blanks are evened out."""
    a, b = " ".join(expected.split()), " ".join(given.split())
    return bool(a) and bool(b) and (a in b or b in a)


def report(score: Score) -> Iterator[str]:
    """Yield the lines of the printed report."""
    yield f"cases               {score.cases} ({score.failures} failures, {score.cases - score.failures} without)"
    yield f"blame right         {_share(score.blame_right, score.cases)}"
    yield f"cause right         {_share(score.cause_right, score.cases)}"
    yield f"evidence line right {_share(score.evidence_right, score.failures)}"
    yield f"false alarms        {_share(score.false_alarms, score.cases - score.failures)}"
    words = [*(blame.value for blame in Blame), NONE]
    yield ""
    yield f"{'labelled / given':<18}" + "".join(f"{word:>16}" for word in words)
    for expected in sorted({pair[0] for pair in score.confusion}):
        yield f"{expected:<18}" + "".join(f"{score.confusion[expected, word]:>16}" for word in words)


def main(argv: list[str] | None = None) -> int:
    """Print the report of a file."""
    parser = argparse.ArgumentParser(prog="python -m dujiang.health.evaluate", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--signatures", type=Path, help="a folder of signature files instead of the shipped ones")
    parser.add_argument("--wrong", action="store_true", help="list every case that is not wholly right")
    options = parser.parse_args(argv)
    library = load_folder(options.signatures) if options.signatures else load_shipped()
    with options.file.open(encoding="utf-8") as lines:
        score = evaluate((json.loads(line) for line in lines if line.strip()), Diagnoser(library))
    shown = [*report(score), *(["", *score.wrong] if options.wrong else [])]
    sys.stdout.write("\n".join(shown) + "\n")
    return 0


def _facts(log: str) -> AttemptFacts:
    seen = Observation(AttemptKey("job_labelled", 1), Phase.ENDED, end=End.EXITED, exit_code=1)
    return AttemptFacts(seen, output={0: log})


def _given(verdict: Diagnosis) -> str:
    return NONE if verdict.cause == Cause.UNKNOWN.value else verdict.blame.value


def _expected_cause(label: str) -> Cause:
    if label in _ALSO_CALLED:
        return _ALSO_CALLED[label]
    name = "".join(part.capitalize() for part in label.split("_"))
    return Cause(name) if name in set(Cause) else Cause.UNKNOWN


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {100 * part / whole:.1f} %" if whole else "-"


if __name__ == "__main__":
    sys.exit(main())
