"""The process that `ptft_jax.rewards.bounded` starts: a job per line of its input, a result per line of its output. It imports nothing
of the package, so that it starts fast."""

from __future__ import annotations

import collections
import json
import re
import sys
from typing import Any

FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


def search(job: dict[str, Any]) -> dict[str, Any]:
    """Where a pattern is in a text: {"found", "text" of its group}."""
    matches = re.finditer(job["pattern"], job["text"])
    match = next(matches, None)
    if job["last"]:
        match = next(iter(collections.deque(matches, maxlen=1)), match)
    return {"found": match is not None, "text": None if match is None else match[job["group"]]}


def substitute(job: dict[str, Any]) -> dict[str, Any]:
    """A text with another in place of what a pattern finds: {"text"}."""
    return {"text": re.sub(job["pattern"], job["by"], job["text"])}


def validate(job: dict[str, Any]) -> dict[str, Any]:
    """Whether a text is JSON of a schema: {"valid", "reason"}. Nothing is fetched that a schema refers to."""
    import jsonschema
    import referencing
    import referencing.exceptions

    text = job["text"]
    fenced = FENCE.fullmatch(text)
    try:
        value = json.loads(
            fenced[1] if fenced else text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError) as e:
        return {"valid": False, "reason": f"not JSON: {e}"}
    schema = job["schema"]
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        error = jsonschema.exceptions.best_match(kind(schema, registry=referencing.Registry()).iter_errors(value))
    except referencing.exceptions.Unresolvable as e:
        return {"error": f"the schema refers to {e.ref!r}, which is not in it"}
    except RecursionError:
        return {"valid": False, "reason": "too deep"}
    if error is None:
        return {"valid": True, "reason": "valid"}
    return {"valid": False, "reason": f"{error.json_path}: {error.message}"[:300]}


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is more than a number can be")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a name twice")
    return found


def main() -> None:
    jobs = {"search": search, "substitute": substitute, "validate": validate}
    if sys.argv[1:] == ["validate"]:  # takes a while, which is no time of an answer's
        import jsonschema  # noqa: F401
        import referencing.exceptions  # noqa: F401
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(jobs[job["job"]](job)), flush=True)


if __name__ == "__main__":
    main()
