"""Byte-pair ranks in the form of `tiktoken`: a line has a token in base64 and its rank, which is its id."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ptft_jax import environment
from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.base import END_OF_TEXT
from ptft_jax.data.tokenizers.patterns import PATTERNS
from ptft_jax.data.tokenizers.spliced import Spliced, character_spans
from ptft_jax.errors import UserError, nearest

SUFFIX = ".tiktoken"


class Known(NamedTuple):
    """A published vocabulary: its pattern's name, BOS, EOS, and its control tokens, which follow the ranks."""

    pattern: str
    bos: str
    eos: str
    special: dict[str, int]


def _llama3() -> Known:
    used = {
        0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>",
        7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>", 10: "<|python_tag|>",
    }  # fmt: skip
    reserved = (f"<|reserved_special_token_{n}|>" for n in range(256))
    special = {used.get(n) or next(reserved): 128_000 + n for n in range(256)}
    return Known("llama3", used[0], used[1], special)


def _qwen() -> Known:
    texts = [END_OF_TEXT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))]
    return Known("qwen", "", END_OF_TEXT, {text: 151_643 + n for n, text in enumerate(texts)})


def known(name: str, ranks: int) -> Known | None:
    """The published vocabulary that a file's name and size tell, or None."""
    prompt, fim = "<|endofprompt|>", ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
    cl100k = {END_OF_TEXT: 100_257, **dict(zip(fim, range(100_258, 100_261))), prompt: 100_276}
    table = {
        ("r50k_base.tiktoken", 50_256): lambda: Known("gpt2", "", END_OF_TEXT, {END_OF_TEXT: 50_256}),
        ("p50k_base.tiktoken", 50_280): lambda: Known("gpt2", "", END_OF_TEXT, {END_OF_TEXT: 50_256}),
        ("cl100k_base.tiktoken", 100_256): lambda: Known("cl100k_base", "", END_OF_TEXT, cl100k),
        ("o200k_base.tiktoken", 199_998): lambda: Known(
            "o200k_base", "", END_OF_TEXT, {END_OF_TEXT: 199_999, prompt: 200_018}
        ),
        ("qwen.tiktoken", 151_643): _qwen,
        ("tokenizer.model", 128_000): _llama3,
    }
    return table[name, ranks]() if (name, ranks) in table else None


def looks_like(data: bytes) -> bool:
    """Whether a file holds ranks: families publish them as tokenizer.model, too."""
    return re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+", data.split(b"\n", 1)[0].strip()) is not None


class TiktokenTokenizer(Spliced):
    """Ranks, with the pattern named or written as "pat_str" in tokenizer_config.json, and control tokens in its
    "added_tokens_decoder"; for published vocabularies (`known`) both are known."""

    def __init__(self, files: Mapping[str, bytes], origin: str):
        names = [name for name in files if name.endswith(SUFFIX)] or ["tokenizer.model"]
        if len(names) > 1:
            raise UserError(f"{origin}: several {SUFFIX} files: {', '.join(sorted(names))}; leave one")
        name = names[0]
        tiktoken = environment.needed("tiktoken", f"{origin}: {name}")
        ranks = _ranks(files[name], f"{origin}: {name}")
        settings = settings_.read(files, origin)
        found = known(name, len(ranks))
        pattern = settings.config.get("pat_str") or (found.pattern if found else None)
        if not isinstance(pattern, str):
            raise UserError(
                f"{origin}: {name}: how texts are cut before merging is not known for these {len(ranks)} ranks: give "
                f'"pat_str" in {settings_.CONFIG}, a regular expression or one of {", ".join(PATTERNS)}'
            )
        if re.fullmatch(r"\w+", pattern) and pattern not in PATTERNS:
            raise UserError(f"{origin}: pat_str {pattern!r} names no pattern{nearest(pattern, PATTERNS)}")
        self._name, self._pattern = name, PATTERNS.get(pattern, pattern)
        try:
            self._ranks = tiktoken.Encoding(origin, pat_str=self._pattern, mergeable_ranks=ranks, special_tokens={})
        except Exception as e:  # the library raises ValueError, AssertionError and others
            raise UserError(f"{origin}: {name}: tiktoken refuses it: {e}") from e
        texts = {rank: token for token, rank in ranks.items()}
        if found:
            for key, text in (("bos_token", found.bos), ("eos_token", found.eos)):
                if text:
                    settings.named.setdefault(key, text)
        super().__init__(
            files,
            name,
            settings,
            origin,
            size=max(texts) + 1,
            piece_of=lambda i: texts.get(i, b"").decode("utf-8", errors="replace"),
            id_of=lambda text: ranks.get(text.encode()),
            special=found.special if found else {},
            prefix_ids=(found.special[found.bos],) if found and found.bos and settings.add_bos is not False else (),
        )
        self._bytes = texts

    def _run_places(self) -> cutting.Places | None:
        return cutting.of_pattern(self._pattern)

    def _encode_run(self, text: str, first: bool) -> list[int]:
        return self._ranks.encode_ordinary(text)

    def _encode_run_spans(self, text: str, first: bool) -> tuple[list[int], np.ndarray]:
        ids = self._encode_run(text, first)
        return ids, character_spans(text, self._lengths[ids])

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        return np.asarray([len(self._bytes.get(rank, b"")) for rank in range(self.size)], np.int64)

    def _own_bytes(self, token: int) -> bytes:
        return self._bytes.get(token, b"")

    def identity(self) -> tuple[bytes | str, ...]:
        return self._files[self._name], self._rules(), self._pattern


def _ranks(data: bytes, where: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            text = base64.b64decode(token, validate=True)
            if text in ranks or int(rank) < 0:
                raise ValueError("a repeated token" if text in ranks else "a negative rank")
            ranks[text] = int(rank)
        except (ValueError, binascii.Error) as e:
            raise UserError(f"{where}, line {number}: not a token in base64 and its rank: {e}") from e
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(f"{where}: has no token for byte 0x{missing[0]:02X}: some texts could not be encoded")
    if len(set(ranks.values())) != len(ranks):
        raise UserError(f"{where}: two tokens have the same rank")
    return ranks
