"""Small Hugging Face folders made without transformers."""

import functools
import json

import jax

from ptft_jax.data import tokenizers as tok
from ptft_jax.interop import export, families
from ptft_jax.model import presets
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer

LLAMA = dict(
    vocab_size=272, layers=3, width=32, heads=4, kv_heads=2, mlp_width=48, max_length=64, activation="silu", gated=True,
    norm="rms", norm_eps=1e-5, biases=(), positions="rotary", tied=True,
)  # fmt: skip
GPT2 = dict(vocab_size=257, layers=2, width=32, heads=4, max_length=64)
BERT = dict(
    vocab_size=272, layers=2, width=32, heads=4, max_length=64, activation="gelu", norm_eps=1e-12, causal=False,
    norm_placement="post", embedding_norm=True, token_types=2, head="masked_lm",
)  # fmt: skip
MIXTRAL = {**LLAMA, "tied": False, "experts": 4, "experts_per_token": 2, "norm_eps": 1e-5}


@functools.cache
def _params(items):
    model = Transformer(ModelSpec(**families.canonical(dict(items))))
    params = jax.jit(model.init)(jax.random.key(3))
    # Norms and biases too, so that a mix-up of any two leaves shows.
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), params)


def params_of(fields):
    """Random parameters of a model."""
    return _params(tuple(fields.items()))


def folder(path, fields=LLAMA, **options):
    """Writes a Hugging Face folder of random parameters with a byte tokenizer; its path."""
    tokenizer = tok.ByteTokenizer()
    export.to_folder(export.Exported(params_of(fields), fields, tokenizer, []), path, dtype="float32", **options)
    return path


def edit(path, **fields):
    """Changes fields of a JSON file."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **fields}))


_TOWERS = dict(
    vocab_size=259, layers=1, width=16, heads=2, mlp_width=32, image_size=8, patch_size=4, channels=3, text_layers=2, text_width=16, text_heads=2,
    text_mlp_width=32, text_length=12,
)  # fmt: skip
CLIP = presets.family("clip") | _TOWERS | dict(max_length=5, vector_width=8)
SIGLIP = presets.family("siglip") | _TOWERS | dict(max_length=4)


def bytes_with(**config):
    """A byte tokenizer with the tokens "<s>" (257) and "<pad>" (258), and what its tokenizer_config.json says."""
    files = tok.with_tokens(tok.ByteTokenizer(), ["<s>", "<pad>"]).files()
    config = {**json.loads(files.get("tokenizer_config.json", b"{}")), **config}
    return tok.from_files({**files, "tokenizer_config.json": json.dumps(config).encode()}, "bytes")
