"""Makes documents from the published schema, and values of every kind that a specification can hold."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]


def from_schema(schema: Schema) -> st.SearchStrategy[Any]:
    """Return documents that a schema accepts. Knows the words that ours uses, and refuses others."""
    unknown = schema.keys() - _KNOWN
    assert not unknown, f"teach this generator {sorted(unknown)}"
    if "anyOf" in schema:
        return st.one_of([from_schema(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "string":
            return _texts(schema)
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return _numbers(schema)
        case "boolean":
            return st.booleans()
        case "array":
            most = min(schema["maxItems"], 3)
            return st.lists(
                from_schema(schema["items"]), min_size=schema.get("minItems", 0), max_size=most,
                unique_by=_name if schema.get("uniqueItems") else None,
            )  # fmt: skip
        case "object" if "properties" in schema:
            return _records(schema)
        case "object":
            names = _texts(schema["propertyNames"]).filter(lambda name: _allowed(name, schema["propertyNames"]))
            values = from_schema(schema["additionalProperties"])
            return st.lists(
                st.tuples(names, values), max_size=3, unique_by=lambda pair: re.sub(r"\W", "_", pair[0].upper())
            ).map(dict)
    raise AssertionError(schema)


_KNOWN = {
    "$schema", "$id", "title", "description", "default", "examples", "type", "enum", "anyOf", "allOf", "not", "pattern",
    "minLength", "maxLength", "minimum", "maximum", "multipleOf", "items", "minItems", "maxItems", "uniqueItems",
    "properties", "required", "additionalProperties", "propertyNames", "maxProperties", "minProperties",
}  # fmt: skip


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    # `$` of Python also matches before a line feed at the end; that of JSON Schema does not.
    inner = schema["pattern"].removeprefix("^").removesuffix("$")
    longest = min(schema.get("maxLength", 200), 200)
    texts = st.from_regex(re.compile(inner), fullmatch=True).filter(lambda text: not re.search("[\ud800-\udfff]", text))
    return texts.filter(lambda text: schema.get("minLength", 0) <= len(text) <= longest)


def _numbers(schema: Schema) -> st.SearchStrategy[float]:
    if "multipleOf" in schema:
        steps = round(1 / schema["multipleOf"])
        return st.integers(round(schema["minimum"] * steps), round(schema["maximum"] * steps)).map(lambda n: n / steps)
    return st.floats(schema["minimum"], schema["maximum"]) | st.integers(1, 1000).map(float)


def _records(schema: Schema) -> st.SearchStrategy[Schema]:
    required = schema.get("required", [])
    properties = {name: from_schema(inner) for name, inner in schema["properties"].items()}
    records = st.fixed_dictionaries(
        {name: properties[name] for name in required},
        optional={name: inner for name, inner in properties.items() if name not in required},
    )
    if "maxProperties" in schema:
        one = [st.fixed_dictionaries({name: inner}) for name, inner in properties.items()]
        assert schema["minProperties"] == schema["maxProperties"] == 1
        return st.one_of(one)
    return records.map(lambda record: _repaired(record, schema))


def _repaired(record: Schema, schema: Schema) -> Schema:
    """Leave out what conditions between fields forbid."""
    if "not" in schema and all(name in record for name in schema["not"]["required"]):
        del record[schema["not"]["required"][0]]
    for condition in schema.get("allOf", []):
        wanted = condition["if"]["properties"]
        applies = all(record.get(name, inner["const"] if name not in condition["if"].get("required", []) else None)
                      == inner["const"] for name, inner in wanted.items())  # fmt: skip
        if applies:
            for name, bounds in condition["then"]["properties"].items():
                if name in record and not bounds["minimum"] <= record[name] <= bounds["maximum"]:
                    record[name] = bounds["minimum"]
    return record


def _allowed(name: str, schema: Schema) -> bool:
    return "not" not in schema or not re.search(schema["not"]["pattern"], name)


def _name(item: Any) -> Any:
    if isinstance(item, dict):
        return item.get("name") or item.get("job") or repr(sorted(item.items()))
    return item.partition(":")[0] if isinstance(item, str) else item


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
