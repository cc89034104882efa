"""SentencePiece models (Kudo and Richardson 2018), read with the `sentencepiece` library."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from ptft_jax import environment
from ptft_jax.data.tokenizers import settings as settings_
from ptft_jax.data.tokenizers.spliced import Spliced
from ptft_jax.errors import UserError

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
# These classes renumber the model's ids in their own code.
RENUMBERED = ("XLMRoberta", "Camembert", "MBart", "MBart50", "Nllb", "Barthez", "M2M100", "XGLM", "Pegasus", "Marian")


class SentencePieceTokenizer(Spliced):
    """A SentencePiece model with the added tokens of the files beside it.

    Between added tokens, text is encoded by the library as it is. What follows an added token starts a new word (gets
    the model's dummy prefix) only with `"legacy": true` in tokenizer_config.json; Hugging Face does the same.

    Attributes:
      unknown: the text of the piece for what is unknown; "" where there is none.
    """

    def __init__(self, files: Mapping[str, bytes], origin: str):
        name = next(name for name in FILES if name in files)
        sentencepiece = environment.needed("sentencepiece", f"{origin}: {name}")
        try:
            self._model = model = sentencepiece.SentencePieceProcessor(model_proto=files[name])
        except Exception as e:  # the library raises plain RuntimeError and others
            raise UserError(f"{origin}: {name} is not a SentencePiece model: {e}") from e
        settings = settings_.read(files, origin)
        kind = str(settings.config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
        if kind in RENUMBERED:
            raise UserError(
                f"{origin}: {kind}Tokenizer numbers tokens otherwise than {name}: a tokenizer.json is needed beside it"
            )
        for token, i in (("bos", model.bos_id()), ("eos", model.eos_id()), ("pad", model.pad_id())):
            if i >= 0:
                settings.named.setdefault(f"{token}_token", model.id_to_piece(i))
        size = model.piece_size()
        self._name, self._legacy = name, bool(settings.config.get("legacy"))
        control = {model.id_to_piece(i): i for i in range(size) if model.is_control(i)}
        super().__init__(
            files,
            name,
            settings,
            origin,
            size=size,
            piece_of=model.id_to_piece,
            id_of=self._id_of,
            special=control,
        )
        self.unknown = model.id_to_piece(model.unk_id()) if model.unk_id() >= 0 else ""
        if self.unk_id is None and self.unknown:
            self.unk_id = model.unk_id()

    def _id_of(self, text: str) -> int | None:
        i = self._model.piece_to_id(text)
        return i if self._model.id_to_piece(i) == text else None  # unknown pieces have the id of <unk>

    @functools.cached_property
    def _inner(self):
        """The model for text that follows other text: no dummy prefix when encoding."""
        return self._variant(add_dummy_prefix=False)

    @functools.cached_property
    def _verbatim(self):
        """The model for decoding what follows other text: no leading space is dropped."""
        return self._variant(add_dummy_prefix=False, remove_extra_whitespaces=False)

    def _variant(self, **changes: bool):
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        proto = sentencepiece_model_pb2.ModelProto.FromString(self._files[self._name])
        for name, value in changes.items():
            setattr(proto.normalizer_spec, name, value)
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def _encode_run(self, text: str, first: bool) -> list[int]:
        return self._model_for(first).encode(text)

    def _encode_run_spans(self, text: str, first: bool) -> tuple[list[int], list[tuple[int, int]]]:
        found = self._model_for(first).encode(text, return_type="offset_mapping")
        return found["ids"], found["offsets"]

    def _model_for(self, first: bool):
        return self._model if first or self._legacy else self._inner

    def decode(self, ids: Sequence[int]) -> str:
        """As the library decodes: a first word's space is dropped, an unknown token is ' ⁇ '."""
        parts: list[str] = []
        run: list[int] = []

        def flush() -> None:
            if run:
                parts.append((self._verbatim if parts else self._model).decode(run))
                run.clear()

        for i in map(int, ids):
            if i in self.special_ids:
                continue
            if i in self._text_of:
                flush()
                parts.append(self._text_of[i])
            elif i < self.size:
                run.append(i)
        flush()
        return "".join(parts)

    def _own_bytes(self, token: int) -> bytes:
        if self._model.is_byte(token):
            return bytes([int(self._model.id_to_piece(token)[3:-1], 16)])  # <0xNN>
        if self._model.is_unknown(token):
            return b""
        return self._verbatim.decode([token]).encode()

    def identity(self) -> tuple[bytes | str, ...]:
        return self._files[self._name], self._rules(), f"legacy={self._legacy}"
