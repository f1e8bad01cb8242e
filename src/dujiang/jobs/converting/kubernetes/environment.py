"""The environment of a container: values, references to elsewhere, and what is known only where the job runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from dujiang.jobs.converting.commands import LONGEST, TooLong, Word, expand, fixed, is_fixed
from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.parts import Part
from dujiang.kit.spec.problems import quote

ConfigMaps = Mapping[str, Mapping[str, str]]
"""Those that stand in the same text, by name."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OWN: Final[Mapping[str, str]] = {
    "metadata.name": "$DUJIANG_JOB_NAME",
    "metadata.uid": "$DUJIANG_JOB_ID",
    "metadata.namespace": "$DUJIANG_PROJECT",
    "spec.nodeName": "$(hostname)",
}
"""What fields of a running Pod are here, as a shell writes it."""
INDEX: Final = "batch.kubernetes.io/job-completion-index"


class Environment:
    """The variables of one container."""

    def __init__(
        self, draft: Draft, maps: ConfigMaps, index: str, labels: Mapping[str, str], given: Sequence[str] = ()
    ) -> None:
        """Begin with none.

        Args:
            draft: takes `env` and `secrets`.
            maps: ConfigMaps whose values are known.
            index: what the index of an Indexed Job is here, as a shell writes it; empty when there is none.
            labels: of the Pod, for references to them.
            given: variables that are there where the job runs.
        """
        self.values: dict[str, str | None] = dict.fromkeys(given)
        """As later references see them; None is known only where the job runs."""
        self.exports: list[str] = []
        self._left = LONGEST
        self._draft, self._maps, self._index, self._labels = draft, maps, index, labels

    def read(self, container: Part) -> None:
        """Take `envFrom` and `env` of a container."""
        for source in container.parts("envFrom", "a source of variables"):
            self._from(source)
        for variable in container.parts("env", "a variable"):
            self._variable(variable)

    def _from(self, source: Part) -> None:
        prefix = source.text("prefix") or ""
        reference = source.part("configMapRef", "a reference")
        name = reference.text("name") if reference is not None else None
        if name in self._maps and name is not None:
            for key, value in self._maps[name].items():
                self._fixed(prefix + key, value, source, "configMapRef")
        elif reference is not None:
            self._away(source, "configMapRef", f"The ConfigMap {quote(name or '')} is not in this file.", "env")
        if "secretRef" in source:
            self._away(source, "secretRef", "Which variables a Secret holds is known to the cluster alone.", "secrets")
        source.close()

    def _away(self, source: Part, field: str, why: str, ours: str) -> None:
        form = "NAME: value" if ours == "env" else "NAME: ${NAME}"
        source.note(field, "Its variables are not set.", why, f"Write each under {ours}: {form}.")

    def _variable(self, variable: Part) -> None:
        name = variable.text("name") or ""
        if not _NAME.fullmatch(name) or name.upper().startswith("DUJIANG_"):
            why = "A variable has letters, digits and underscores, and names with DUJIANG_ are the platform's own."
            variable.note("name", f"The variable {quote(name)} is not set.", why, "Give it another name.")
            for field in ("value", "valueFrom"):
                variable.take(field)
        elif "valueFrom" in variable:
            source = variable.part("valueFrom", "a source of a value")
            assert source is not None
            self._reference(name, source)
        else:
            self._value(name, variable)
        variable.close()

    def _value(self, name: str, variable: Part) -> None:
        try:
            word = expand(variable.text("value") or "", self.values, self._left)
            self._left -= sum(len(piece.text) for piece in word)
        except TooLong as error:
            message = "With what its references stand for, the variables are longer than all of a job's may be."
            raise variable.report.refuse(variable.under("value"), message, at=variable.at("value")) from error
        if is_fixed(word):
            self._fixed(name, fixed(word), variable, "value")
        else:
            self._running(name, _assigned(word), variable, "value")

    def _reference(self, name: str, source: Part) -> None:
        if (reference := source.part("secretKeyRef", "a reference")) is not None:
            self._secret(name, reference)
        elif (reference := source.part("configMapKeyRef", "a reference")) is not None:
            self._config(name, reference)
        elif (reference := source.part("fieldRef", "a reference")) is not None:
            self._field(name, reference)
        elif (reference := source.part("resourceFieldRef", "a reference")) is not None:
            self._resource(name, reference)
        source.close(dict.fromkeys(("fileKeyRef",), ("Nothing is mounted into jobs.", "Write the value under env.")))

    def _secret(self, name: str, reference: Part) -> None:
        secret, key = reference.text("name") or "", reference.text("key") or ""
        get = f"kubectl get secret {secret} -o jsonpath='{{.data.{key.replace('.', chr(92) + '.')}}}' | base64 -d"
        instead = f"Set {name} before you submit, such as by: export {name}=$({get})"
        if reference.truth("optional"):
            reference.note("key", f"{name} is not set.", "Its secret is in the cluster, and optional.", instead)
            return
        self._draft.drop("env", name)
        self._draft.put({"variable": name}, "secrets", name, at=reference.at("key"))
        self.values[name] = None
        what = f"{name} is taken from the environment of whoever submits."
        reference.note("key", what, f"The Secret {quote(secret)} is in the cluster.", instead, kept=True)
        reference.close()

    def _config(self, name: str, reference: Part) -> None:
        wanted, key = reference.text("name") or "", reference.text("key") or ""
        value = self._maps.get(wanted, {}).get(key)
        if value is not None:
            self._fixed(name, value, reference, "key")
        else:
            why = f"The ConfigMap {quote(wanted)} with {quote(key)} is not in this file."
            reference.note("key", f"{name} is not set.", why, f"Write env: {{{name}: value}}.")
        reference.take("optional")
        reference.close()

    def _field(self, name: str, reference: Part) -> None:
        path = reference.text("fieldPath") or ""
        reference.take("apiVersion")
        match = re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path)
        if match and match[2] == INDEX and self._index:
            self._running(name, f'"{self._index}"', reference, "fieldPath")
        elif match and match[1] == "labels" and match[2] in self._labels:
            self._fixed(name, self._labels[match[2]], reference, "fieldPath")
        elif path in _OWN:
            self._running(name, f'"{_OWN[path]}"', reference, "fieldPath")
            what = f"{name} is {_OWN[path]}."
            reference.note("fieldPath", what, "There is no Pod object; this comes nearest.", kept=True)
        else:
            why = f"A job has nothing like {quote(path)}."
            reference.note("fieldPath", f"{name} is not set.", why, "MASTER_ADDR and RANK tell ranks apart.")
        reference.close()

    def _resource(self, name: str, reference: Part) -> None:
        asked = reference.text("resource") or ""
        variable = {"cpu": "DUJIANG_CPU_MILLI", "memory": "DUJIANG_MEMORY_BYTES"}.get(asked.partition(".")[2])
        for field in ("containerName", "divisor"):
            reference.lose(field, "The amount of the job counts, in the platform's unit.")
        if variable == "DUJIANG_CPU_MILLI":
            self._running(name, f"$((({variable} + 999) / 1000))", reference, "resource")
        elif variable:
            self._running(name, f'"${variable}"', reference, "resource")
        else:
            reference.note("resource", f"{name} is not set.", f"There is no variable for {quote(asked)}.")
        reference.close()

    def _fixed(self, name: str, value: str, part: Part, field: str) -> None:
        if not _NAME.fullmatch(name):
            part.note(field, f"The variable {quote(name)} is not set.", "No shell could name it.")
            return
        self._forget(name)
        self.values[name] = value
        self._draft.put(value, "env", name, at=part.at(field))

    def _running(self, name: str, expression: str, part: Part, field: str) -> None:
        self._forget(name)
        self.values[name] = None
        self.exports.append(f"export {name}={expression}")

    def _forget(self, name: str) -> None:
        """Of a name that stands twice the last counts."""
        self._draft.drop("env", name)
        self._draft.drop("secrets", name)
        self.exports = [line for line in self.exports if not line.startswith(f"export {name}=")]


def _assigned(word: Word) -> str:
    return "".join(f'"${{{p.text}}}"' if p.is_variable else shlex.quote(p.text) for p in word) or "''"
