"""A tokenizer as other tools read it: the files of a Hugging Face folder, with the chat template, and whether they say the same.

With a tokenizer.json its class is written as PreTrainedTokenizerFast, which takes the file as it is; the others make a
pipeline of their own of its vocabulary, and with it other ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptft_jax.data import chat, endings
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.sandbox import Template
from ptft_jax.data.tokenizers import settings
from ptft_jax.data.tokenizers.alike import HARD, differing
from ptft_jax.errors import UserError
from ptft_jax.interop import gguf_tokenizer, gguf_vocabulary, tokenizer_json

CLASS = "PreTrainedTokenizerFast"
# Families whose tokenizers transformers (5) reads by a class of its own: its name, and GGUF's of how that cuts text.
_OWN_CLASS = {"qwen2": ("Qwen2Tokenizer", "qwen2")}
# What matters to the class that a tokenizer.json takes the place of.
_OF_CLASS = (
    "legacy",
    "sp_model_kwargs",
    "added_tokens_decoder",
    "use_default_system_prompt",
    "spaces_between_special_tokens",
)


def written(tokenizer: tok.Tokenizer, max_length: int, template: str = "", pad: int | None = None) -> dict[str, bytes]:
    """The files, by name. What the model's generation_config.json says is written by the export itself.

    Args:
      max_length: of the model.
      template: the source of the chat template by which the model talks; "" = the tokenizer's own, if any.
      pad: the control token that it pads with (`ptft_jax.interop.padding`); None = its own, if any.

    Raises:
      UserError: a kind that has no such form.
    """
    files = {name: data for name, data in tokenizer.files().items() if name != settings.GENERATION}
    config = json.loads(files.get(settings.CONFIG, b"{}"))
    config.setdefault("model_max_length", max_length)
    if isinstance(tokenizer, tok.ByteTokenizer | tok.SentencePieceTokenizer):
        made = tokenizer_json.of_bytes if isinstance(tokenizer, tok.ByteTokenizer) else tokenizer_json.of_pieces
        whole = made(tokenizer)
        files[tok.FILE] = json.dumps(whole, ensure_ascii=False).encode()
        config = {key: value for key, value in config.items() if key not in _OF_CLASS}
        files.pop("added_tokens.json", None)
        if isinstance(
            tokenizer, tok.SentencePieceTokenizer
        ):  # llama.cpp's converter then takes added tokens from here alone
            added = {str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in whole["added_tokens"]}
            config["added_tokens_decoder"] = added
        unknown = getattr(tokenizer, "unknown", "")
        config = {**tokenizer.named, **({"unk_token": unknown} if unknown else {}), **config}
    if tok.FILE in files:
        config["tokenizer_class"] = CLASS
        config.pop("auto_map", None)
        if "cls_token" not in tokenizer.named:  # which segment a token is of, only encoders ask
            config.setdefault("model_input_names", ["input_ids", "attention_mask"])
        ends = {i: text for text, i in tokenizer.special.items()}
        if tokenizer.end_id in ends:
            config.setdefault("eos_token", ends[tokenizer.end_id])
        config.setdefault("clean_up_tokenization_spaces", False)
    elif "tokenizer_class" not in config:
        raise UserError(
            f"{tokenizer.origin}: its kind has no form that other tools read without the key tokenizer_class in a "
            f"{settings.CONFIG} beside it"
        )
    config |= _templates(tokenizer, files, template)
    if pad in tokenizer.special_ids:
        config["pad_token"] = next(text for text, i in tokenizer.special.items() if i == pad)
    return {**files, settings.CONFIG: json.dumps(config, indent=2, ensure_ascii=False).encode()}


def of_tower(tokenizer: tok.Tokenizer, files: Mapping[str, bytes], length: int, causal: bool) -> dict[str, bytes]:
    """The files for a tower of texts, of those that `written` gives: a text has its end behind it, as in training, and at most so many tokens.

    Args:
      causal: whether no token sees the padding. Else none is masked, and transformers gives the tower no mask.

    Raises:
      UserError: a kind without a tokenizer.json, in which nothing says what texts end with.
    """
    if tok.FILE not in files:
        raise UserError(
            f"{tokenizer.origin}: its kind has no {tok.FILE}, by which texts would end as they do in training"
        )
    whole, config = json.loads(files[tok.FILE]), json.loads(files[settings.CONFIG])
    whole["post_processor"] = tokenizer_json.ended(tokenizer)
    config = {key: value for key, value in config.items() if key not in ("add_bos_token", "add_eos_token")}
    config["model_max_length"] = length
    if not causal:
        config["model_input_names"] = ["input_ids"]
    made = {
        tok.FILE: json.dumps(whole, ensure_ascii=False),
        settings.CONFIG: json.dumps(config, indent=2, ensure_ascii=False),
    }
    return {**files, **{name: text.encode() for name, text in made.items()}}


def _templates(tokenizer: tok.Tokenizer, files: dict[str, bytes], template: str) -> dict[str, Any]:
    """The chat templates as tokenizer_config.json has them; takes a file of one out of `files`."""
    default = portable(tokenizer, template) if template else tokenizer.chat_template
    if default is None:
        return {}
    files.pop("chat_template.jinja", None)
    named = {**tokenizer.chat_templates, "default": default}
    if len(named) == 1:
        return {"chat_template": default}
    return {"chat_template": [{"name": name, "template": text} for name, text in named.items()]}


def obstacles(tokenizer: tok.Tokenizer, template: str = "", *, gguf: bool = True) -> list[str]:
    """Why `ptft export` would refuse a tokenizer with the template (`written`) that a run talks by, a line per reason; [] where it
    would not. `gguf`: whether GGUF has such models."""
    try:
        files = written(tokenizer, 1, template)
        if not isinstance(tokenizer, tok.HuggingFaceTokenizer | tok.TiktokenTokenizer):
            refuse_differing(tokenizer, tok.from_files(files, "its files"), "a tokenizer.json of it")
    except UserError as e:
        return [f"ptft export --to=hf{' and --to=gguf' if gguf else ''} will refuse this run's tokenizer: {e}"]
    if gguf:
        try:
            config = {"vocab_size": tokenizer.vocab_size, "eos_token_id": list(ends(tokenizer, template))}
            gguf_vocabulary.to_metadata(files, config)
        except UserError as e:
            return [f"ptft export --to=gguf will refuse this run's tokenizer: {e}"]
    return []


def refuse_other_class(tokenizer: tok.Tokenizer, files: Mapping[str, bytes], model_type: str) -> None:
    """Raises UserError for a family whose tokenizers transformers reads by a class of the family's, whatever the files say, where
    that gives other ids."""
    if model_type not in _OWN_CLASS or tok.FILE not in files:
        return
    name, rule = _OWN_CLASS[model_type]
    whole = json.loads(files[tok.FILE])
    read = None
    if whole["model"].get("type") == "BPE":
        steps = gguf_tokenizer.pre_tokenizer(gguf_tokenizer.PRE_TOKENIZERS[rule])
        whole |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": steps}
        read = tok.from_files({**files, tok.FILE: json.dumps(whole).encode()}, name)
    texts = HARD[1:] if read is None else differing(tokenizer, read)
    if texts:
        raise UserError(
            f"--family={model_type}: transformers reads the tokenizer of every {model_type} by its class {name}, which gives other "
            f"ids than {tokenizer.origin} for {len(texts)} texts, such as {texts[0]!r}: choose another --family where one fits, or "
            "--to=gguf"
        )


def portable(tokenizer: tok.Tokenizer, source: str) -> str:
    """A template that gives the ids of ours in programs that add nothing to its text: a built-in one with what the tokenizer has
    texts start with (`chat.prefix`) before it."""
    compiled = Template(source, "the chat template")
    if chat.built_in(tokenizer, compiled) is None:
        return source
    ids = tokenizer.encode(chat.render(tokenizer, [{"role": "user", "content": "a"}], template=compiled), special=True)
    start = chat.prefix(tokenizer, compiled, ids).tolist()
    if not start:
        return source
    if start == [tokenizer.bos_id] and "bos_token" in tokenizer.named:
        return "{{ bos_token }}" + source
    texts = {i: text for text, i in tokenizer.special.items()}
    return "".join(f"{{{{ {json.dumps(texts[i], ensure_ascii=False)} }}}}" for i in start) + source


def ends(tokenizer: tok.Tokenizer, template: str = "") -> tuple[int, ...]:
    """Every token that ends a text or an answer, the tokenizer's `end_id` first."""
    source = template or tokenizer.chat_template
    return endings.stops(tokenizer, Template(source, "the chat template")) if source else tokenizer.stop_ids


def refuse_differing(one: tok.Tokenizer, other: tok.Tokenizer, what: str, remedy: str = "") -> None:
    """Raises UserError where the two give other ids for any of the texts of `differing`; `what` is the other."""
    if texts := differing(one, other):
        raise UserError(
            f"{what} gives other ids than {one.origin} for {len(texts)} texts, such as {texts[0]!r}{remedy}"
        )


def refuse_other_chat(one: tok.Tokenizer, template: str, other: tok.Tokenizer) -> None:
    """Raises UserError where a conversation has other ids by a template for `one` than by that which `other` brings."""
    source = template or one.chat_template
    if source is None:
        return
    said = [{"role": role, "content": f" {role}\n"} for role in ("user", "assistant", "user")]
    try:
        ours = chat.encode_chat(one, said, True, template=Template(source, "the chat template"), control_tokens=True)
    except UserError:  # a template for other conversations
        return
    theirs = chat.encode_chat(other, said, True, control_tokens=True)
    if not np.array_equal(ours, theirs):
        raise UserError("the chat template of the export, read back, gives other ids")
