"""Pre-training on Shakespeare's plays with each objective. ARG: OBJECTIVE[,SIZE], such as "masked_lm" or
"span_corruption,small"; sizes are those of pretrain/shakespeare."""

from configs.pretrain import shakespeare
from ptft_jax import config as configs
from ptft_jax.model import presets

# What an objective needs beside its name: tokens that it hides text behind, and a model that looks both ways.
TOKENS = {
    "causal_lm": (),
    "prefix_lm": (),
    "masked_lm": ("[MASK]",),
    "span_corruption": tuple(f"<extra_id_{i}>" for i in range(16)),
}


def get_config(arg: str) -> configs.Config:
    objective, _, size = arg.partition(",")
    tokens = configs.choose(TOKENS, objective, "objective")
    config = shakespeare.get_config(size or "tiny")
    config.objective.name = objective
    config.tokenizer.add = tokens
    if objective == "masked_lm":
        config.model.update(**presets.family("bert"))
        config.samples.update(**configs.default().samples)  # none: it fills in, and writes nothing
    return config
