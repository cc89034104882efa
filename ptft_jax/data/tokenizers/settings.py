"""What the small files beside a tokenizer's vocabulary say: named and added tokens, BOS, stops, chat templates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ptft_jax.data import jsons
from ptft_jax.errors import UserError

CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
# Read where present. The model's config.json only for its eos_token_id.
FILES = (CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", GENERATION, "config.json")
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token beside those of the model, found in the text before the model sees it (Hugging Face's AddedToken)."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """The files' contents, resolved.

    Attributes:
      named: "bos_token", "eos_token", ... -> the token's text.
      more_special: texts of further special tokens.
      added: id -> token, from `added_tokens_decoder` and added_tokens.json.
      add_bos: whether a text starts with the BOS token; None = not said.
      eos_ids: ids that end generation, by generation_config.json, else the model's config.json.
      chat_templates: name -> Jinja source; "default" is the one meant without a name.
      config: tokenizer_config.json as it is.
    """

    named: dict[str, str]
    more_special: tuple[str, ...]
    added: dict[int, AddedToken]
    add_bos: bool | None
    eos_ids: tuple[int, ...]
    chat_templates: dict[str, str]
    config: dict[str, Any]

    @property
    def special(self) -> set[str]:
        """The texts that are control tokens because a name or list says so."""
        return {*self.named.values(), *self.more_special}


def read(files: Mapping[str, bytes], origin: str) -> Settings:
    """Reads those of FILES that are there. Raises UserError naming the file that is malformed."""
    config = _json(files, CONFIG, origin)
    special_map = _json(files, "special_tokens_map.json", origin)
    named = {}
    for name in NAMES:
        token = config.get(name) or special_map.get(name)
        if token:
            named[name] = _content(token, f"{origin}: {name}")
    more = [*_listed(config, origin), *_listed(special_map, origin)]
    return Settings(
        named,
        tuple(dict.fromkeys(more)),
        _added(config, _json(files, "added_tokens.json", origin), {*named.values(), *more}, origin),
        config.get("add_bos_token"),
        _eos_ids(files, origin),
        _templates(files, config, origin),
        config,
    )


def stored(files: Mapping[str, bytes], settings: Settings) -> dict[str, bytes]:
    """The files from which `read` gives the same settings again. What the model's config.json and
    generation_config.json say of stops is kept as a generation_config.json with nothing else."""
    kept = {name: data for name, data in files.items() if name in FILES[:4]}
    if settings.eos_ids:
        kept[GENERATION] = json.dumps({"eos_token_id": list(settings.eos_ids)}).encode()
    return kept


def with_added(files: Mapping[str, bytes], tokens: Mapping[int, AddedToken]) -> bytes:
    """tokenizer_config.json with further entries in `added_tokens_decoder`."""
    config = json.loads(files.get(CONFIG, b"{}"))
    entries = {str(i): dataclasses.asdict(token) for i, token in tokens.items()}
    config["added_tokens_decoder"] = {**config.get("added_tokens_decoder", {}), **entries}
    return json.dumps(config, ensure_ascii=False, indent=2).encode()


def _json(files: Mapping[str, bytes], name: str, origin: str) -> dict[str, Any]:
    return jsons.table(files[name], f"{origin}: {name}") if name in files else {}


def _content(token: Any, where: str) -> str:
    """A token is written as its text, or as an object that has it as "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise UserError(f"{where}: {token!r} is not a token")
    return text


def _listed(config: Mapping[str, Any], origin: str) -> list[str]:
    found = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = config.get(key) or []
        for token in tokens.values() if isinstance(tokens, dict) else tokens:
            found.append(_content(token, f"{origin}: {key}"))
    return found


def _added(config, listed, special: set[str], origin: str) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = {}
    names = {f.name for f in dataclasses.fields(AddedToken)}
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise UserError(f"{origin}: {CONFIG}: added_tokens_decoder is no table of ids and tokens")
    for key, entry in decoder.items():
        content = _content(entry, f"{origin}: added_tokens_decoder[{key!r}]")
        values = {name: value for name, value in entry.items() if name in names}
        values["special"] = bool(values.get("special")) or content in special
        found[_id(key, f"{origin}: added_tokens_decoder")] = AddedToken(**values)
    for content, token in listed.items():
        i = _id(token, f"{origin}: added_tokens.json[{content!r}]")
        if i in found and found[i].content != content:
            raise UserError(f"{origin}: id {i} is {content!r} in added_tokens.json, {found[i].content!r} in {CONFIG}")
        found.setdefault(i, AddedToken(content, special=content in special))
    return found


def _id(value: Any, where: str) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise UserError(f"{where}: {value!r} is not a token id")
    return int(value)


def _eos_ids(files: Mapping[str, bytes], origin: str) -> tuple[int, ...]:
    for name in (GENERATION, "config.json"):
        value = _json(files, name, origin).get("eos_token_id")
        if value is not None:
            values = value if isinstance(value, list) else [value]
            return tuple(dict.fromkeys(_id(v, f"{origin}: {name}: eos_token_id") for v in values))
    return ()


def _templates(files: Mapping[str, bytes], config: Mapping[str, Any], origin: str) -> dict[str, str]:
    found = config.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):  # an older form for several
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    if not isinstance(found, dict) or not all(isinstance(x, str) for pair in found.items() for x in pair):
        raise UserError(f"{origin}: {CONFIG}: chat_template is neither a text nor a list of named texts")
    if "chat_template.jinja" in files:
        try:
            found = {**found, "default": files["chat_template.jinja"].decode("utf-8")}
        except UnicodeDecodeError as e:
            raise UserError(f"{origin}: chat_template.jinja is not UTF-8: {e}") from e
    return found
