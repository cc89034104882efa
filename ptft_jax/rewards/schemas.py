"""Answers that are to be JSON of a schema."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from ptft_jax import environment
from ptft_jax.errors import UserError, nearest
from ptft_jax.rewards.base import Score, Task, Unscored, Verifier
from ptft_jax.rewards.bounded import Bounded, TooLong


class JsonSchema(Verifier):
    """1 where the answer, or the one block of code that it is, is JSON that the schema allows. NaN, Infinity and objects with a name
    twice are not JSON here."""

    def __init__(self, schema: str = "", column: str = "", seconds: float = 2.0):
        if bool(schema) == bool(column):
            wrong = "both set" if schema else "both ''"
            raise UserError(
                f"config.rewards.json_schema: schema (a file) and column (of the records) are {wrong}: give one of them"
            )
        self._module = environment.needed("jsonschema", "the verifier 'json_schema'")
        self._column, self._seconds, self._process = column, seconds, Bounded()
        self._schema = (
            self._checked(_read(schema), f"config.rewards.json_schema.schema = {schema!r}") if schema else None
        )

    def check(self, task: Task) -> None:
        self._of(task)

    def strictly(self) -> None:
        self.partial = True

    def score(self, answer: str, task: Task) -> Score | Unscored:
        job = {"job": "validate", "schema": self._of(task), "text": answer}
        try:
            found = self._process.run(job, self._seconds)
        except TooLong:
            return self._failed(f"validation took more than {self._seconds:g} seconds")
        if found.get("ended"):
            return self._failed(found["reason"])
        return Score(float(found["valid"]), found["reason"])

    def _failed(self, why: str) -> Score | Unscored:
        return Unscored(why) if self.partial else Score(0.0, why)

    def close(self) -> None:
        self._process.close()

    def _of(self, task: Task) -> Any:
        if self._schema is not None:
            return self._schema
        value, where = task.record.get(self._column), f"{task.where}: column {self._column!r}"
        if value is None:
            raise UserError(f"{where}, which is to hold a JSON schema, is missing{nearest(self._column, task.record)}")
        if isinstance(value, str):
            value = _parsed(value, where)
        return self._checked(value, where)

    def _checked(self, schema: Any, where: str) -> Any:
        if not isinstance(schema, (dict, bool)):
            raise UserError(f"{where}: a {type(schema).__name__}, expected a JSON schema")
        validators = self._module.validators
        try:
            validators.validator_for(schema, default=self._module.Draft202012Validator).check_schema(schema)
        except self._module.exceptions.SchemaError as e:
            raise UserError(f"{where}: no JSON schema: {e.json_path}: {e.message}") from e
        names = {value for key, value in _named(schema) if key in ("$id", "id")}
        for key, value in _named(schema):
            if key == "$ref" and not value.startswith("#") and value.partition("#")[0] not in names:
                raise UserError(
                    f"{where}: $ref {value!r}: nothing is fetched; put what it refers to into the schema ($defs)"
                )
        return schema


def _named(schema: Any) -> Iterator[tuple[str, str]]:
    """Names and values that are texts, at whatever depth."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from _named(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _named(value)


def _read(file: str) -> Any:
    where = f"config.rewards.json_schema.schema = {file!r}"
    try:
        return _parsed(pathlib.Path(file).expanduser().read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{where}: cannot be read: {e}") from e


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not JSON: {e}") from e
