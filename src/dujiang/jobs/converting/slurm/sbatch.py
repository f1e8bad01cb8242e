"""A batch script of Slurm to a job here."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dujiang.jobs.converting.amounts import BadAmount, slurm_seconds
from dujiang.jobs.converting.commands import LONGEST
from dujiang.jobs.converting.devices import model_of
from dujiang.jobs.converting.draft import Converted, Draft
from dujiang.jobs.converting.kubernetes.pods import LONGEST_S, class_of
from dujiang.jobs.converting.report import NOWHERE, Report
from dujiang.jobs.converting.slurm.layout import SEEN_TO, Given, Layout, layout, put_layout
from dujiang.jobs.converting.slurm.lines import Option, Script, read_script
from dujiang.jobs.converting.slurm.script import Rewritten, rewrite
from dujiang.jobs.converting.slurm.words import QUIET, REASONS
from dujiang.jobs.spec import After, BadIndices, When, mended_name, parse_indices
from dujiang.kit.spec.problems import Problems, quote

_SIGNALS: Final[Mapping[str, str]] = {"10": "USR1", "12": "USR2", "15": "TERM", "2": "INT", "1": "HUP", "3": "QUIT",
                                      "14": "ALRM", "28": "WINCH", "18": "CONT"}  # fmt: skip
_DEPENDENCIES: Final[Mapping[str, str]] = {"afterok": "ok", "afterany": "any", "afternotok": "notok"}
_NOW: Final = re.compile(r"now\+(\d{1,9})(s(?:ec(?:onds?)?)?|m(?:in(?:utes?)?)?|h(?:ours?)?|d(?:ays?)?|w(?:eeks?)?)?")
_LENGTHS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LOCAL_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?)?")


@dataclass(frozen=True, slots=True)
class Around:
    """What of the submitter's place a script means without saying it."""

    workdir: str | None = None
    """Where it is submitted; None is not known."""
    name: str = "job"
    localise: Callable[[datetime], datetime] | None = None
    """Gives a time without a zone the submitter's; None is not known."""


def convert_sbatch(text: str, problems: Problems, around: Around) -> Converted:
    """Return the job of a batch script.

    Raises:
        Refused: Slurm would not take it, or no job here can be it; the problems are noted.
    """
    report = Report(problems)
    script = read_script(text, report)
    given = {option.name: option for option in script.options}
    draft = Draft("sbatch script", report, (1, 1))
    if "job-name" in given:
        draft.name(given["job-name"].value, "--job-name", given["job-name"].at)
    else:
        draft.put(mended_name(around.name) or "job", "name")
    if len(script.body) > LONGEST:
        message = f"The script has {len(script.body)} characters; {LONGEST} are the most."
        raise report.refuse("script", message, "Put it in a file and run that.", at=(1, 1))
    found = layout(given, report)
    put_layout(found, given, draft, report)
    _Options(draft, report, found, around).read(given)
    array = draft.get("array")
    known = _known(given, draft)
    rewritten = rewrite(script, found, array["indices"] if array else None, report, known)
    _put_run(rewritten, draft, script)
    return draft.finish()


def _known(given: Given, draft: Draft) -> dict[str, str]:
    """Return variables whose values the options say."""
    table = {"SLURM_JOB_PARTITION": "partition", "SLURM_JOB_ACCOUNT": "account", "SLURM_JOB_QOS": "qos"}
    found = {name: given[option].value for name, option in table.items() if option in given}
    return {name: value for name, value in found.items() if re.fullmatch(r"[\w.,-]+", value)}


def _put_run(rewritten: Rewritten, draft: Draft, script: Script) -> None:
    place = (script.lines[0], 1) if script.lines else (1, 1)
    if rewritten.image:
        draft.put(rewritten.image, "image", at=place)
    if rewritten.workdir:
        draft.put(rewritten.workdir, "workdir", at=place)
    for name, value in rewritten.constants.items():
        draft.put(value, "env", name, at=place)
    if rewritten.mpi:
        words: dict[str, Any] = {"launcher": "mpi", "processes": rewritten.mpi}
        draft.put(words | ({"args": list(rewritten.args)} if rewritten.args else {}), "distributed", at=place)
    draft.put(rewritten.run.text(plain=bool(rewritten.mpi)), "run", at=place)


class _Options:
    """The options that are neither amounts nor text."""

    def __init__(self, draft: Draft, report: Report, found: Layout, around: Around) -> None:
        self._draft, self._report, self._found, self._around = draft, report, found, around

    def read(self, given: Given) -> None:
        """Take all of them; each that has no meaning here is noted."""
        for name, option in given.items():
            if name in _TAKEN:
                _TAKEN[name](self, option)
            elif name in REASONS:
                why, instead = REASONS[name]
                self._report.note(option.path, "Not kept.", why, instead, at=option.at)
            else:
                assert name in SEEN_TO | QUIET | {"job-name", "chdir", "deadline"}, name
        if "export" not in given:
            why = "Slurm hands the submitter's environment to the job; here a job has only what it says."
            instead = "Write env, or have the script set what it needs; --export=NONE says that it needs nothing."
            self._report.note("--export", "The environment of the submission does not go with the job.", why, instead,
                              at=NOWHERE)  # fmt: skip
        self._folder(given.get("chdir"))
        self._due(given.get("deadline"))

    def _note(self, option: Option, what: str, why: str = "", instead: str = "", *, kept: bool = False) -> None:
        self._report.note(option.path, what, why, instead, at=option.at, kept=kept)

    def _folder(self, option: Option | None) -> None:
        if option is not None:
            folder = posixpath.join(self._around.workdir or "", option.value)
            self._draft.put(folder, "workdir", at=option.at)
        elif self._around.workdir is not None:
            self._draft.put(self._around.workdir, "workdir")
        else:
            why = "Slurm runs a script in the folder where it is submitted, which is not known."
            self._report.note("--chdir", "The job has a folder of its own.", why, "Write --chdir.", at=NOWHERE)

    def _time(self, option: Option) -> None:
        try:
            seconds = slurm_seconds(option.value)
        except BadAmount as error:
            message = f"{quote(option.value)}: {error.sentence}"
            raise self._report.refuse(option.path, message, at=option.at) from error
        if seconds is not None and seconds > LONGEST_S:
            self._note(option, "The job has no time limit.", "366 days are the longest.")
        elif seconds is not None:
            self._draft.put(seconds, "time_limit", at=option.at)

    def _partition(self, option: Option) -> None:
        self._label("slurm/partition", option)
        why = "What a job needs is said by its resources, and where it is counted by its queue."
        first, *others = (name.strip() for name in option.value.split(","))  # Slurm takes whichever starts it first
        label = f"slurm.schedmd.com/partition-{re.sub(r'[^A-Za-z0-9_.-]', '-', first)[:60]}"
        which = f"of {quote(first)}, one of them" if others else "of that partition"
        instead = f'Write queue: NAME, or placement: {{selector: {{{label}: "true"}}}} for the nodes {which}.'
        self._note(option, f"The partition {quote(option.value)} is only a label.", why, instead)

    def _label(self, name: str, option: Option) -> None:
        if option.value and len(option.value) <= 255 and option.value.isprintable():
            self._draft.put(option.value, "labels", name, at=option.at)

    def _account(self, option: Option) -> None:
        self._draft.put(option.value.lower(), "project", at=option.at)
        what = f"The account {quote(option.value)} is the project of that name."
        self._note(option, what, "", "Write project, if it is called otherwise here.", kept=True)

    def _qos(self, option: Option) -> None:
        self._draft.put(class_of(option.value), "class", at=option.at)
        what = f"The QOS {quote(option.value)} is class {class_of(option.value)}, by its name."
        self._note(option, what, "What it gives is set in Slurm.", "Write class: core, normal or low.", kept=True)

    def _comment(self, option: Option) -> None:
        self._label("comment", option)
        if self._draft.get("labels", "comment") is None:
            self._note(option, "Not kept.", "A label has up to 255 characters.")

    def _array(self, option: Option) -> None:
        indices, _, limit = option.value.partition("%")
        if len(indices) > 4096:
            raise self._report.refuse(option.path, "This is longer than 4096 characters.", at=option.at)
        try:
            numbers = parse_indices(indices)
        except BadIndices as error:
            raise self._report.refuse(option.path, error.sentence, at=option.at) from error
        if limit and not (limit.isdigit() and int(limit[:9]) > 0):
            message = f"{quote(limit)} is no number of tasks at once."
            raise self._report.refuse(option.path, message, "Write such as 0-99%10.", at=option.at)
        at_once = min(int(limit[:9]), len(numbers)) if limit else 0
        self._draft.put({"indices": indices, **({"at_once": at_once} if at_once else {})}, "array", at=option.at)

    def _dependency(self, option: Option) -> None:
        after: dict[str, str] = {}
        for part in option.value.split(","):
            kind, _, jobs = part.strip().partition(":")
            if "?" in part or kind not in _DEPENDENCIES or not jobs:
                why = "A job waits for the end of others, for all of them."
                self._note(option, f"{quote(part)} is not kept.", why, "Write after.")
                continue
            for job in jobs.split(":"):
                after[job.partition("+")[0].lower()] = _DEPENDENCIES[kind]
        if after:
            self._draft.put([After(job, When(when)).document() for job, when in after.items()], "after", at=option.at)
            what = f"The job comes after {', '.join(list(after)[:5])}."
            why = "These are Slurm's numbers; here jobs have ids and names of their own."
            self._note(option, what, why, "Write their ids or names under after, or `--after` of submit.", kept=True)

    def _signal(self, option: Option) -> None:
        match = re.fullmatch(r"(?:([RB]{1,2}):)?(?:SIG)?([A-Za-z0-9]{1,10})(?:@(\d{1,6}))?", option.value)
        name = _SIGNALS.get(match[2], match[2].upper()) if match else ""
        if match is None or name not in _SIGNALS.values():
            message = f"{quote(option.value)} is not a signal that a program can save itself on."
            raise self._report.refuse(option.path, message, "Write such as B:USR1@60.", at=option.at)
        ahead = int(match[3] or 60)
        self._draft.put(f"SIG{name}", "checkpoint", "signal", at=option.at)
        self._draft.put(min(max(ahead, 1), 3600), "grace", at=option.at)
        if ahead > 3600:
            self._note(option, "The grace is an hour.", "That is the longest.", kept=True)
        what = f"SIG{name} comes when an attempt is to stop, {min(ahead, 3600)} s before the kill."
        why = "Slurm sends it that long before the time limit; here the limit comes first and the grace after it."
        to = "" if match[1] and "B" in match[1] else " It goes to the processes of the job, the script among them."
        self._note(option, what, why + to, kept=True)

    def _requeue(self, option: Option) -> None:
        self._draft.put({"limit": 3, "on": ["infrastructure", "preemption"]}, "retry", at=option.at)

    def _no_requeue(self, option: Option) -> None:
        self._draft.put({"limit": 0}, "retry", at=option.at)

    def _constraint(self, option: Option) -> None:
        gpu = self._draft.get("resources", "gpu")
        models = [model_of(word) for word in option.value.split("|")]
        if gpu and len(models) > 1 and all(models) and "&" not in option.value:
            self._draft.drop("resources", "gpu")
            choices = [{"gpu": {**gpu, "model": model}} for model in dict.fromkeys(models)]
            self._draft.put(choices[:8], "resources", "any_of", at=option.at)
            self._note(option, "The features are device models, the first the best.", "", kept=True)
            return
        if not re.fullmatch(r"[\w.:+-]+(&[\w.:+-]+)*", option.value):
            why = "A job demands all of its labels; it cannot choose between them or count them."
            self._note(option, f"{quote(option.value)} is not kept.", why, "Write placement: {selector: ...}.")
            return
        for word in option.value.split("&"):
            model = model_of(word)
            if gpu and model:
                self._draft.put(model, "resources", "gpu", "model", at=option.at)
                self._note(option, f"{quote(word)} is a device model: {model}.", "", kept=True)
                continue
            label = f"slurm.schedmd.com/feature-{re.sub(r'[^A-Za-z0-9_.-]', '-', word)}"
            self._draft.put("true", "placement", "selector", label, at=option.at)
            why = "Features are labels, and nodes that Slurm does not manage have none of these."
            self._note(
                option, f"Nodes must have {label}=true.", why, "Leave it out, to go to other clusters.", kept=True
            )

    def _switches(self, option: Option) -> None:
        number, _, wait = option.value.partition("@")
        if number != "1":
            self._note(option, "Not kept.", "Nodes are within one switch or not.", "Write placement: {within: rack}.")
            return
        self._draft.put("switch", "placement", "within", at=option.at)
        if wait:
            self._draft.put(False, "placement", "required", at=option.at)
            self._note(option, "The nodes are farther from one another rather than wait.", "There is no longest wait.",
                       kept=True)  # fmt: skip

    def _clusters(self, option: Option) -> None:
        if "," in option.value or option.value == "all":
            self._note(option, "Not kept.", "A job goes to any cluster that has room, unless it names one.")
            return
        self._draft.put(option.value, "placement", "cluster", at=option.at)
        what = f"The job goes to the cluster {quote(option.value)} alone."
        self._note(option, what, "", "Write the name that `dujiang clusters` shows, or leave it out.", kept=True)

    def _container_image(self, option: Option) -> None:
        self._draft.put(option.value.replace("#", "/", 1), "image", at=option.at)

    def _container_workdir(self, option: Option) -> None:
        self._draft.put(option.value, "workdir", at=option.at)

    def _export(self, option: Option) -> None:
        for word in [word.strip() for word in _items(option.value) if word.strip()]:
            name, equals, value = word.partition("=")
            if word == "NONE" or word == "NIL":
                continue
            if word == "ALL":
                why = "A job has only what it says."
                self._note(option, "The environment of the submission does not go with the job.", why, "Write env.")
            elif not _VARIABLE.fullmatch(name) or name.upper().startswith("DUJIANG_"):
                self._note(option, f"{quote(name)} is not set.", "It is no name of a variable that a job may set.")
            elif equals:
                self._draft.put(value, "env", name, at=option.at)
            else:
                self._draft.put({"variable": name}, "secrets", name, at=option.at)
                what = f"{name} is taken from the environment of whoever submits."
                self._note(option, what, "It is treated as a secret, which is shown nowhere.", kept=True)

    def _due(self, option: Option | None) -> None:
        if option is None:
            return
        deadline = self._moment(option)
        if deadline is None:
            instead = "Write deadline: 2099-12-01T08:00:00+08:00, or 2d from the submission."
            self._note(option, "Not kept.", f"{quote(option.value)} is no time that is certain here.", instead)
        elif not self._draft.get("time_limit"):
            self._note(option, "Not kept.", "Only what is known to end in time can be promised.", "Write --time too.")
        else:
            self._draft.put(deadline, "deadline", at=option.at)

    def _moment(self, option: Option) -> str | int | None:
        match = _NOW.fullmatch(option.value)
        if match:
            return int(match[1]) * _LENGTHS[(match[2] or "s")[0]]
        if self._around.localise is None or not _LOCAL_TIME.fullmatch(option.value):
            return None
        try:
            return self._around.localise(datetime.fromisoformat(option.value)).isoformat()
        except (ValueError, OverflowError, OSError):
            return None


_TAKEN: Final[Mapping[str, Callable[[_Options, Option], None]]] = {
    "time": _Options._time,
    "partition": _Options._partition,
    "account": _Options._account,
    "qos": _Options._qos,
    "comment": _Options._comment,
    "array": _Options._array,
    "dependency": _Options._dependency,
    "signal": _Options._signal,
    "requeue": _Options._requeue,
    "no-requeue": _Options._no_requeue,
    "constraint": _Options._constraint,
    "switches": _Options._switches,
    "clusters": _Options._clusters,
    "container-image": _Options._container_image,
    "container-workdir": _Options._container_workdir,
    "export": _Options._export,
}


def _items(text: str) -> list[str]:
    """Return what stands between commas; quotes keep one together."""
    return [item.strip("'\"") for item in re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^,])+", text)]
