"""Records to examples, with ids that can be read: bytes, and the control tokens of ChatML."""

from ptft_jax.data import formats
from ptft_jax.data import tokenizers as tok

SHOWN = {256: "$", 257: "«", 258: "»"}


def chatml_bytes(template=None):
    """Bytes, 257 = <|im_start|>, 258 = <|im_end|>; with a chat template of its own or none."""
    t = tok.with_tokens(tok.ByteTokenizer(), ["<|im_start|>", "<|im_end|>"])
    return tok.from_files({**t.files(), "chat_template.jinja": template.encode()}, "own") if template else t


def where(index):
    return f"x.jsonl, line {index + 1}"


def encoder(records, options=None, tokenizer=None, **settings):
    found = formats.choose(records, options or {}, where)
    return formats.encoder(found, tokenizer or chatml_bytes(), **settings)


def encode(records, options=None, tokenizer=None, **settings):
    made = encoder(records, options, tokenizer, **settings)
    return made.encode(records, [where(i) for i in range(len(records))])


def shown(row):
    """An example's text, and the learned part of it, dots elsewhere; None = all."""
    text = "".join(SHOWN.get(i) or chr(i) for i in row.ids.tolist())
    return text, row.trained if row.trained is None else "".join(
        c if learned else "." for c, learned in zip(text, row.trained)
    )
