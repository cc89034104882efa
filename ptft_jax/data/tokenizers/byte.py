"""Bytes as tokens: nothing to train, nothing unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from ptft_jax.data.tokenizers import cutting
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.base import END_OF_TEXT, FILE
from ptft_jax.data.tokenizers.spliced import Spliced, character_spans

CONTENT = json.dumps({"ptft_jax": "bytes"})


class ByteTokenizer(Spliced):
    """Ids 0-255 are the bytes of UTF-8; 256 ends a text. Added tokens follow."""

    def __init__(self, files: Mapping[str, bytes] | None = None, origin: str = "bytes"):
        files = files or {FILE: CONTENT.encode()}
        super().__init__(
            files,
            FILE,
            settings_.read(files, origin),
            origin,
            size=257,
            piece_of=lambda i: END_OF_TEXT if i == 256 else f"byte {i}",
            id_of=lambda text: None,
            special={END_OF_TEXT: 256},
        )

    def _run_places(self) -> cutting.Places:
        return cutting.ANYWHERE

    def _spliced(self, text: str, pattern, tokens):
        if pattern is None:  # long texts: without a Python object a byte
            return np.frombuffer(text.encode("utf-8"), np.uint8)
        return super()._spliced(text, pattern, tokens)

    def _encode_run(self, text: str, first: bool) -> list[int]:
        return list(text.encode("utf-8"))

    def _encode_run_spans(self, text: str, first: bool) -> tuple[np.ndarray, np.ndarray]:
        ids = np.frombuffer(text.encode("utf-8"), np.uint8)
        return ids, character_spans(text, np.ones(len(ids), np.int64))

    def _own_bytes(self, token: int) -> bytes:
        return bytes([token])

    def identity(self) -> tuple[str, ...]:
        # Alone, as in runs that were made before tokens could be added.
        bare = len(self._added) == 1 and not self.prefix_ids and self.end_id == 256
        return (CONTENT,) if bare else (CONTENT, self._rules())
