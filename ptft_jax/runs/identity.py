"""What two models must share to be made one, or to be measured as one: structure, tokenizer, chat template, names of classes.

Every verb that joins runs asks here: `combine` of all its models, a run of its parent (`init.from`, replay, distillation,
what forgetting is measured on), `eval` of data, an adapter of its base, `compare` of runs.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ptft_jax.data import class_names, records, token_folder
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.chat_templates import BUILT_IN
from ptft_jax.data.class_names import Head
from ptft_jax.data.tokenizers import alike, settings
from ptft_jax.errors import UserError, listed
from ptft_jax.model.spec import wordless
from ptft_jax.runs import meant
from ptft_jax.runs.workdir import Workdir

_TALKS = (
    "messages:",
    "sharegpt:",
    "prompt-messages:",
    "alpaca:",
    "preference-messages:",
    "rated-messages:",
)  # formats that a tokenizer's own template renders


@dataclasses.dataclass(frozen=True)
class Template:
    """The chat template that conversations were rendered by: what it is called, and its source."""

    name: str
    source: str


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a model is, but for its numbers.

    Attributes:
      name: for messages.
      structure: the fields of `config.model` that make it, canonical.
      tokenizer: None of models of images.
      template: None where no conversation was rendered, or where nobody knows.
      classes: of the rows of its head; None where there are none, or where nobody knows.
    """

    name: str
    structure: Mapping[str, Any]
    tokenizer: tok.Tokenizer | None = None
    template: Template | None = None
    classes: Head | None = None


def of(source: Any) -> Identity:
    """The identity of a run's checkpoint or of imported weights (`ptft_jax.runs.source.Parent`)."""
    from ptft_jax.interop import families

    fields = source.fields
    tokenizer = None if wordless(fields) else source.tokenizer
    return Identity(
        source.name, families.canonical(fields), tokenizer, template_of(source, tokenizer), classes_of(source)
    )


def classes_of(source: Any) -> Head | None:
    """The classes of a model's head, in the order of its rows; None where it has no such head, and where nobody knows them:
    imported weights, or what was made of them, may have no names."""
    if source.fields["head"] != "classes":
        return None
    trained = getattr(source, "archive", None) is None and bool(Workdir(source.workdir).read_data())
    return _named(source.classes, source.name, source.fields["classes"]) if source.classes or trained else None


def _named(names: Sequence[str], owner: str, size: int) -> Head:
    """A head with a name for each of its rows, or with none."""
    return Head(class_names.filled(names, size), owner, size)


def template_of(source: Any, tokenizer: tok.Tokenizer | None) -> Template | None:
    """The template that the conversations of a run were rendered by; None of imported weights, of which nobody knows."""
    if tokenizer is None or getattr(source, "archive", None) is not None:
        return None
    name = meant.template_of(source.workdir, source.config.data.template)
    return template(name, tokenizer, Workdir(source.workdir).read_data())


def template(name: str, tokenizer: tok.Tokenizer, rows: Sequence[Mapping[str, Any]]) -> Template | None:
    """The template that `config.data.template` names for data of `rows` (`TrainingData.table`); None where they have none."""
    if not name:
        rendered = [row for row in rows if not str(row.get("source", "")).startswith("tokens:")]
        talks = any(str(row.get("format", "")).startswith(_TALKS) for row in rendered)
        own = tokenizer.chat_template if talks else None
        return None if own is None else Template("the tokenizer's own", own)
    known = {**BUILT_IN, **tokenizer.chat_templates}
    path = pathlib.Path(name).expanduser()
    text = path.read_text(encoding="utf-8") if name.endswith(".jinja") and path.is_file() else known.get(name, name)
    return Template(repr(name), text)


def chat_template(source: Any) -> str:
    """The source of the chat template by which a run, or imported weights, talk; "" where none is known."""
    tokenizer = None if wordless(source.fields) else source.tokenizer
    if tokenizer is None:
        return ""
    meta = getattr(source, "meta", {})
    if "chat_template" in meta:
        return meta["chat_template"]
    found = template_of(source, tokenizer)  # of runs of earlier versions
    if found and _is_lost(found):
        return ""
    return found.source if found else tokenizer.chat_template or ""


def _is_lost(found: Template) -> bool:
    """Whether what should be a template's text is the name of its file, which is no longer there."""
    return found.source.endswith(".jinja") and repr(found.source) == found.name


def template_beside(adapter: str | pathlib.Path) -> str:
    """The source of the chat template that lies beside an adapter in PEFT's format, by which its model talks; "" where none does."""
    folder = pathlib.Path(adapter).expanduser()
    names = [name for name in settings.FILES if (folder / name).is_file()]
    found = settings.read({name: (folder / name).read_bytes() for name in names}, str(folder)).chat_templates
    return found.get("default", "")


def learned_template(
    name: str, tokenizer: tok.Tokenizer, rows: Sequence[Mapping[str, Any]], parent: Any = None, adapter: str = ""
) -> Template | None:
    """The template that a run talks by when it has been trained on `rows`: that of its conversations, prepared ones too; else
    that beside the adapter that it started with, else its parent's, else the tokenizer's own."""
    found = template(name, tokenizer, rows) or _prepared_template(tokenizer, rows)
    if found is not None and _is_lost(found):
        return None  # nobody knows it any more
    if found is None:
        text = (template_beside(adapter) if adapter else "") or (chat_template(parent) if parent is not None else "")
        text = text or tokenizer.chat_template or ""
        found = Template("the tokenizer's own", text) if text else None
    return found


def _prepared_template(
    tokenizer: tok.Tokenizer, rows: Sequence[Mapping[str, Any]], begun_in: str = ""
) -> Template | None:
    """The template that prepared conversations among data of `rows` were rendered by; `begun_in`: the folder that their places are
    seen from."""
    for row in rows:
        kind, folder, _ = records.parted(row["source"])
        if kind == token_folder.KIND:
            facts = token_folder.manifest(pathlib.Path(begun_in, folder))
            setting = facts.get("settings", {}).get("template", "")
            if found := template(setting, tokenizer, [{"format": facts["format"]}]):
                return found
    return None


def rendered_by(source: Any) -> str:
    """The source of the chat template by which the data of a run were rendered, prepared ones too; "" where they were plain texts. Of
    imported weights the tokenizer's own, "" where it has none. Raises UserError where prepared data are no longer there to tell."""
    tokenizer = source.tokenizer
    if getattr(source, "archive", None) is not None:
        return tokenizer.chat_template or ""
    folder = meant.begun_in(source.workdir) or ""
    rows = Workdir(source.workdir).read_data()
    found = template_of(source, tokenizer) or _prepared_template(tokenizer, rows, folder)
    return "" if found is None else chat_template(source)


def check(one: Identity, other: Identity) -> tuple[int, ...] | None:
    """What must be alike in two models to be made one.

    Returns:
      For each row of the head of `one` that of `other` with the class of the same name; None where they are the same rows.

    Raises:
      UserError: what differs: fields of the structure, the tokenizer, the chat template, or the names of classes.
    """
    check_structures(one, other)
    check_tokenizers(one, other)
    check_templates(one, other)
    return _order(one, other)


def _order(one: Identity, other: Identity) -> tuple[int, ...] | None:
    if one.classes is None or other.classes is None:
        return None
    try:
        return class_names.places(one.classes, other.classes)
    except ValueError:
        raise UserError(
            f"{other.name} and {one.name} tell other classes apart: {class_names.differences(other.classes, one.classes)}"
        ) from None


def of_folder(workdir: pathlib.Path, config: Mapping[str, Any], name: str) -> Identity:
    """The identity of the run in a workdir, from its records alone; without a structure."""
    rows, kept = Workdir(workdir).read_data(), (workdir / tok.FILE).is_file()
    tokenizer = tok.from_file(workdir) if kept else None
    size = config["model"]["classes"] if config["model"]["head"] == "classes" and rows else 0
    classes = _named(class_names.recorded(rows), name, size) if size else None
    named = meant.template_of(workdir, config["data"]["template"])
    return Identity(name, {}, tokenizer, template(named, tokenizer, rows) if tokenizer else None, classes)


def check_measured_alike(one: Identity, other: Identity) -> None:
    """Raises UserError where losses of two runs are of other things: of other tokens, templates or classes. The order of
    classes changes no loss."""
    check_tokenizers(one, other)
    check_templates(one, other)
    _order(one, other)


def check_structures(one: Identity, other: Identity) -> None:
    """Raises UserError for two structures, saying in which fields."""
    from ptft_jax.interop import families

    mine, theirs = one.structure, other.structure
    changed = [f"model.{k}: {theirs[k]!r} and {mine[k]!r}" for k in mine if not families.same(mine[k], theirs[k])]
    if changed:
        raise UserError(
            f"{other.name} and {one.name} are different models and cannot be combined:{listed(changed, 20)}"
        )


def check_tokenizers(one: Identity, other: Identity) -> None:
    """Raises UserError for two tokenizers."""
    mine, theirs = one.tokenizer, other.tokenizer
    if mine is not None and theirs is not None and not alike.same(mine, theirs):
        raise UserError(
            f"{other.name} and {one.name} have different tokenizers: the same numbers are other texts "
            f"({theirs.vocab_size} and {mine.vocab_size} tokens)"
        )


def check_folder(folder: pathlib.Path, source: Any, field: str) -> None:
    """Raises UserError where the tokenizer that lies beside an adapter in PEFT's format gives other tokens than the model's
    own. How its file is written may differ, and it may have further tokens."""
    if source.fields["image_size"] or not (folder / tok.FILE).is_file():
        return
    mine, theirs = source.tokenizer, tok.from_file(folder)
    if tok.fingerprint(mine) == tok.fingerprint(theirs):
        return
    if (number := alike.first_other(mine, theirs)) is not None:
        raise UserError(
            f"{field}: the adapter in {folder} was made for another tokenizer than that of {source.name}: token {number} is "
            f"{theirs.token_bytes(number)!r} there, and {mine.token_bytes(number)!r} here"
        )


def check_templates(one: Identity, other: Identity, advice: str = "") -> None:
    """Raises UserError for two chat templates."""
    mine, theirs = one.template, other.template
    if mine is not None and theirs is not None and mine.source != theirs.source:
        raise UserError(
            f"{other.name} and {one.name} were trained on conversations by different chat templates, {theirs.name} and "
            f"{mine.name}: the same marks mean other things{advice}"
        )
