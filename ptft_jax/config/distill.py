"""The settings of objectives that learn from a teacher's probabilities."""

from __future__ import annotations

from ptft_jax.config import field as settings
from ptft_jax.config.declare import Options, declared


class DistillOptions(Options):
    """`config.objective.distill`, of distill alone."""

    teacher: str = declared(
        settings.Field(
            "",
            "of distill: the model that is learned from, WORKDIR[@best|@last|@STEP], hf:FOLDER, hf:NAME or gguf:FILE; '' = the parent",
        )
    )
    top: int = declared(
        settings.natural(
            64,
            "the teacher's most probable tokens that are kept at each target, the others as one number; 0 = all tokens",
        )
    )
    divergence: str = declared(
        settings.one_of(
            "forward_kl",
            "of teacher and model: KL(teacher || model), KL(model || teacher), or between them",
            *("forward_kl", "reverse_kl", "jensen_shannon"),
        )
    )
    beta: float = declared(
        settings.part(
            0.5, "of divergence=jensen_shannon: the teacher's share of the mixture that both are compared with"
        )
    )
    temperature: float = declared(settings.temperature(1.0, "what the logits of both are divided by", zero=False))
    data_weight: float = declared(
        settings.share(0.5, "weight of the cross-entropy of the data's targets; the divergence has the rest of 1")
    )
    quantize: str = declared(
        settings.one_of("none", "what the teacher's kernels are kept in while it runs: none, or int8", "none", "int8")
    )
