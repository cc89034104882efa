"""Pre-training on the characters of a text, as nanoGPT does on Shakespeare. ARG: RECIPE,SOURCE, such as "cpu,text:plays":
cpu or gpu (nanoGPT's own), or cpu_fast, which reaches the same loss in fewer steps; and data with a validation split."""

from ptft_jax import config as configs

# nanoGPT (Karpathy 2022): config/train_shakespeare_char.py, and its README for a CPU. A character of ASCII is a byte.
RECIPES = {
    #       layers width heads length batch dropout steps
    "cpu": (4, 128, 4, 64, 12, 0.0, 2000),  # validation loss 1.88, as its README says
    "gpu": (6, 384, 6, 256, 64, 0.2, 5000),  # 1.4697
    "cpu_fast": (4, 128, 4, 64, 12, 0.0, 400),
}


def get_config(arg: str) -> configs.Config:
    recipe, _, source = arg.partition(",")
    layers, width, heads, length, batch, dropout, steps = configs.choose(RECIPES, recipe, "recipe")
    config = configs.default()
    config.model.update(
        layers=layers, width=width, heads=heads, max_length=length, dropout=dropout, activation="gelu", biases=(),
        scan=False,
    )  # fmt: skip
    config.tokenizer.kind = "byte"
    config.data.update(source=source, length=length, batch_size=batch)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, b2=0.99, weight_decay=0.1)
    config.training.steps = steps
    config.eval.update(every=250, test=False)
    if recipe == "cpu_fast":
        _fast(config)
    if recipe == "gpu":
        config.model.dtype = "bfloat16"  # as nanoGPT computes there; cuDNN's attention takes it
    return config


def _fast(config: configs.Config) -> None:
    """Muon at a rate ten times as high, and rotary positions with normalized queries and keys, which bear it; down to zero."""
    config.model.update(norm="rms", positions="rotary", query_key_norm="head")
    config.optimizer.update(name="muon", learning_rate=1e-2, schedule="linear", end_ratio=0.0, warmup_steps=20)
    config.eval.every = 100
