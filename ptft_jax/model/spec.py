"""What a transformer is made of: the static, hashable description that everything compiled depends on."""

from __future__ import annotations

import dataclasses

# The letters that end tensor names, used in the whole package:
#   B batch rows   T query positions   S key positions   D width        N query heads   K key/value heads
#   G query heads per key/value head (N = K * G)         H head size    F hidden size of the MLP
#   V vocabulary   L layers            R low rank


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One decoder-only transformer. Sizes left at 0 are derived, see `resolved`.

    Field meanings, defaults and checks are declared once, in `ptft_jax.config`.
    """

    vocab_size: int
    max_length: int
    layers: int
    width: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    mlp_width: int = 0
    activation: str = "gelu_tanh"
    gated: bool = False
    norm: str = "layer"
    norm_eps: float = 1e-5
    bias: bool = True
    positions: str = "learned"
    rope_theta: float = 10_000.0
    tied: bool = True
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    attention: str = "xla"

    @property
    def resolved(self) -> ModelSpec:
        """The same model with every derived size filled in."""
        return dataclasses.replace(
            self,
            kv_heads=self.kv_heads or self.heads,
            head_dim=self.head_dim or self.width // self.heads,
            mlp_width=self.mlp_width or (_gated_width(self.width) if self.gated else 4 * self.width),
        )

    def flops_per_token(self, length: int) -> float:
        """Matrix-multiply FLOPs of one forward pass, per token, at sequence length `length`.

        Counted from the shapes (2 per multiply-add; a causal query sees half of the keys on average),
        because a compiler's own count takes a scanned layer once. Training costs three times as much.
        """
        spec = self.resolved
        heads = spec.heads * spec.head_dim
        projections = spec.width * (2 * heads + 2 * spec.kv_heads * spec.head_dim)
        mlp = spec.width * spec.mlp_width * (3 if spec.gated else 2)
        attention = heads * length  # scores and mixing, each heads * length / 2
        return 2.0 * (spec.layers * (projections + mlp + attention) + spec.width * spec.vocab_size)


def _gated_width(width: int) -> int:
    """Two thirds of 4 * width, rounded up to a multiple of 8: a gated MLP with as many parameters as a plain one
    (Shazeer 2020, "GLU Variants Improve Transformer", section 2)."""
    return -(-8 * width // 3 // 8) * 8
