"""The fine-tuning methods that `config.tune.method` can name, each with its section of `config.tune`. Needs no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ptft_jax.config.declare import Options, declared, fields_of, section
from ptft_jax.config.field import Field, natural, one_of, part, patterns, positive, seed, share, span
from ptft_jax.config.located import located

_HERE = "ptft_jax.adapters"
_LINEAR = ("blocks/(attention|mlp)/(query|key|value|out|gate|up|down)",)
_TARGETS = "patterns of the adapted linear layers' paths"


@dataclasses.dataclass(frozen=True)
class MethodSpec:
    """A fine-tuning method that `config.tune.method` can name.

    Attributes:
      method: the class of `ptft_jax.adapters.base.Method`, or its place, "package.module:name", to be loaded when it is needed.
      fields: its section of `config.tune`, which has the method's name.
    """

    method: Any
    fields: Mapping[str, Field]

    def __call__(self, section: Any) -> Any:
        """The method with the settings of its section."""
        return located(self.method).of(section)


class LoraOptions(Options):
    """`config.tune.lora`: low-rank updates of linear layers."""

    rank: int = declared(positive(8, "rank of each update"))
    alpha: float = declared(positive(16.0, "scale = alpha / rank"))
    rank_stabilized: bool = declared(Field(False, "scale = alpha / sqrt(rank) (rsLoRA)"))
    dora: bool = declared(Field(False, "also learn each output's length, apart from its direction (DoRA)"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    targets: tuple[str, ...] = declared(
        patterns(_LINEAR, "patterns of the paths of adapted linear layers, tables (embed/tokens) and experts")
    )
    init: str = declared(
        one_of(
            "uniform",
            "what training starts from: random numbers, the largest singular triplets (PiSSA) or a QR decomposition (OLoRA)",
            "uniform",
            "gaussian",
            "pissa",
            "olora",
        )
    )
    b_ratio: float = declared(positive(1.0, "learning rate of lora_b over that of lora_a; LoRA+ has 16, LoRA 1"))


class AdaLoraOptions(Options):
    """`config.tune.adalora`: low-rank updates whose ranks are found in training."""

    rank: int = declared(positive(12, "triplets of each layer at the start"))
    target_rank: int = declared(positive(8, "triplets a layer at the end, on average"))
    alpha: float = declared(positive(32.0, "scale = alpha / rank"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    t_init: float = declared(span(0.1, "updates before the first pruning"))
    t_final: float = declared(span(0.3, "updates after the last pruning"))
    delta_t: int = declared(positive(10, "updates from one pruning to the next"))
    beta1: float = declared(part(0.85, "decay of the average of sensitivity"))
    beta2: float = declared(part(0.85, "decay of the average of uncertainty"))
    orthogonal: float = declared(natural(0.1, "weight of the penalty on vectors that are not orthonormal"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class VeraOptions(Options):
    """`config.tune.vera`: shared random matrices with learned vectors between them."""

    rank: int = declared(positive(256, "rank of the shared random matrices"))
    d_init: float = declared(positive(0.1, "what the vector between them starts at"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    seed: int = declared(seed(0, "of the random matrices"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class OftOptions(Options):
    """`config.tune.oft`: rotated inputs of linear layers."""

    block_size: int = declared(positive(32, "size of the rotated blocks of a layer's input"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class Ia3Options(Options):
    """`config.tune.ia3`: a learned vector for each layer."""

    targets: tuple[str, ...] = declared(
        patterns(("blocks/(attention/(key|value)|mlp/down)",), "patterns of the linear layers' paths that get a vector")
    )
    feedforward: tuple[str, ...] = declared(
        patterns(("blocks/mlp/down",), "those of the targets whose input is scaled, not the output")
    )


class ShiraOptions(Options):
    """`config.tune.shira`: a few of a kernel's own numbers."""

    rank: int = declared(positive(8, "a layer has rank * (inputs + outputs) learned numbers, as LoRA of this rank"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class MissOptions(Options):
    """`config.tune.miss`: one learned matrix that is added to every `rank` rows of a kernel."""

    rank: int = declared(positive(16, "rows of the matrix"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class GraloraOptions(Options):
    """`config.tune.gralora`: low-rank updates of the blocks of a kernel."""

    rank: int = declared(positive(8, "rank of the updates of a row of blocks together"))
    alpha: float = declared(positive(16.0, "scale = alpha / (rank + hybrid_rank)"))
    blocks: int = declared(positive(2, "blocks of a kernel on each side"))
    hybrid_rank: int = declared(natural(0, "rank of a plain LoRA beside them; 0 = none"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class HiraOptions(Options):
    """`config.tune.hira`: kernels times low-rank matrices, entry by entry."""

    rank: int = declared(positive(8, "rank of the matrix"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class BdLoraOptions(Options):
    """`config.tune.bd_lora`: low-rank updates with a block-diagonal factor."""

    rank: int = declared(positive(8, "rank of each update"))
    alpha: float = declared(positive(16.0, "scale = alpha / rank"))
    blocks: int = declared(positive(2, "blocks on the diagonal, as many as devices that share a layer"))
    dropout: float = declared(share(0.0, "rate on the adapter's input"))
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))
    rows: tuple[str, ...] = declared(
        patterns(
            ("blocks/(attention/out|mlp/down)",),
            "those of the targets whose lora_a is block-diagonal; of others lora_b is",
        )
    )


class OsfOptions(Options):
    """`config.tune.osf`: the small singular triplets of kernels."""

    kept: float = declared(
        Field(
            0.5,
            "largest singular triplets of a kernel that stay as they are; below 1: a share of all",
            valid=lambda v: 0 < v < 1 or (v >= 1 and float(v).is_integer()),
            expected="a whole number from 1 on, or a share above 0 and below 1",
        )
    )
    targets: tuple[str, ...] = declared(patterns(_LINEAR, _TARGETS))


class BottleneckOptions(Options):
    """`config.tune.bottleneck`: small networks behind or beside sublayers."""

    form: str = declared(
        one_of(
            "pfeiffer",
            "behind the MLP, behind attention and MLP, or beside the MLP",
            "pfeiffer",
            "houlsby",
            "parallel",
        )
    )
    size: int = declared(positive(64, "of the hidden layer"))
    activation: str = declared(one_of("relu", "of the hidden layer", "relu", "gelu", "gelu_tanh", "silu"))
    scale: float = declared(natural(0.0, "factor of what is added; 0 = 4 of the parallel form, 1 of the others"))
    dropout: float = declared(share(0.0, "rate on the hidden layer"))


class PrefixOptions(Options):
    """`config.tune.prefix`: learned keys and values in every layer."""

    length: int = declared(positive(20, "learned keys and values before those of every row, in every layer"))
    reparameterize: int = declared(
        natural(0, "hidden size of one network that makes all layers' while they are learned; 0 = none")
    )


class GatedPrefixOptions(Options):
    """`config.tune.gated_prefix`: learned vectors behind a gate."""

    length: int = declared(positive(10, "learned vectors of each layer, which its attention sees through a gate"))
    layers: int = declared(natural(0, "how many of the last layers have them; 0 = all"))


class RetroOptions(Options):
    """`config.tune.retro`: attention to passages that are found for each chunk of a row (`data.neighbors`)."""

    heads: int = declared(positive(4, "heads of the attention to passages; they divide the model's width"))
    layers: int = declared(natural(0, "how many of the last layers read passages; 0 = all"))


class PromptOptions(Options):
    """`config.tune.prompt`: learned vectors before every row."""

    length: int = declared(positive(20, "learned vectors before the tokens of every row"))
    init: str = declared(
        one_of(
            "vocabulary",
            "what they start from: random tokens' vectors, those of `text`, or noise",
            "vocabulary",
            "text",
            "random",
        )
    )
    text: str = declared(Field("", "of init=text: its tokens, repeated or cut to `length`", raw=True))


class PTuningOptions(Options):
    """`config.tune.p_tuning`: vectors before every row that a network makes."""

    length: int = declared(positive(20, "vectors before the tokens of every row"))
    hidden: int = declared(positive(128, "size of the network that makes them while they are learned"))
    encoder: str = declared(one_of("mlp", "kind of that network", "mlp", "lstm"))


class MethodOptions(Options):
    """Of `config.tune`, the sections of methods, which have their names."""

    lora: LoraOptions = section(LoraOptions)
    adalora: AdaLoraOptions = section(AdaLoraOptions)
    vera: VeraOptions = section(VeraOptions)
    oft: OftOptions = section(OftOptions)
    ia3: Ia3Options = section(Ia3Options)
    shira: ShiraOptions = section(ShiraOptions)
    miss: MissOptions = section(MissOptions)
    gralora: GraloraOptions = section(GraloraOptions)
    hira: HiraOptions = section(HiraOptions)
    bd_lora: BdLoraOptions = section(BdLoraOptions)
    osf: OsfOptions = section(OsfOptions)
    bottleneck: BottleneckOptions = section(BottleneckOptions)
    prefix: PrefixOptions = section(PrefixOptions)
    gated_prefix: GatedPrefixOptions = section(GatedPrefixOptions)
    retro: RetroOptions = section(RetroOptions)
    prompt: PromptOptions = section(PromptOptions)
    p_tuning: PTuningOptions = section(PTuningOptions)


METHODS: Mapping[str, MethodSpec] = {
    "lora": MethodSpec(f"{_HERE}.dora:Dora", fields_of(LoraOptions)),
    "adalora": MethodSpec(f"{_HERE}.adalora:AdaLora", fields_of(AdaLoraOptions)),
    "vera": MethodSpec(f"{_HERE}.vera:Vera", fields_of(VeraOptions)),
    "oft": MethodSpec(f"{_HERE}.oft:Oft", fields_of(OftOptions)),
    "ia3": MethodSpec(f"{_HERE}.ia3:Ia3", fields_of(Ia3Options)),
    "shira": MethodSpec(f"{_HERE}.shira:Shira", fields_of(ShiraOptions)),
    "miss": MethodSpec(f"{_HERE}.miss:Miss", fields_of(MissOptions)),
    "gralora": MethodSpec(f"{_HERE}.gralora:Gralora", fields_of(GraloraOptions)),
    "hira": MethodSpec(f"{_HERE}.hira:Hira", fields_of(HiraOptions)),
    "bd_lora": MethodSpec(f"{_HERE}.bd_lora:BdLora", fields_of(BdLoraOptions)),
    "osf": MethodSpec(f"{_HERE}.osf:Osf", fields_of(OsfOptions)),
    "bottleneck": MethodSpec(f"{_HERE}.bottleneck:Bottleneck", fields_of(BottleneckOptions)),
    "prefix": MethodSpec(f"{_HERE}.prefix:Prefix", fields_of(PrefixOptions)),
    "gated_prefix": MethodSpec(f"{_HERE}.gated_prefix:GatedPrefix", fields_of(GatedPrefixOptions)),
    "retro": MethodSpec(f"{_HERE}.retro:Retro", fields_of(RetroOptions)),
    "prompt": MethodSpec(f"{_HERE}.prompt:Prompt", fields_of(PromptOptions)),
    "p_tuning": MethodSpec(f"{_HERE}.p_tuning:PTuning", fields_of(PTuningOptions)),
}
