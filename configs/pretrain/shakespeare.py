"""Pre-training on Shakespeare's plays, without the histories. ARG: SIZE[,FAMILY]: tiny, small or medium, and a family of
models (or gpt2), such as "tiny,llama"."""

from ptft_jax import config as configs
from ptft_jax.model import presets

SIZES = {
    #         layers width heads length batch steps
    "tiny": (2, 64, 2, 64, 8, 200),  # half a minute, to see everything work
    "small": (3, 128, 4, 128, 16, 1100),  # some minutes on two CPU cores
    "medium": (6, 384, 6, 256, 64, 5000),  # minutes on a GPU
}


def get_config(arg: str = "small") -> configs.Config:
    size, _, family = arg.partition(",")
    layers, width, heads, length, batch, steps = configs.choose(SIZES, size, "size")
    config = configs.default()
    config.model.update(**presets.family(family or "gpt2"))
    config.model.update(layers=layers, width=width, heads=heads, max_length=length, scan=width > 256)
    config.tokenizer.update(kind="bpe", vocab_size=1024)
    config.data.update(source="shakespeare:general", length=length, batch_size=batch)
    config.optimizer.update(learning_rate=3e-3 if width <= 128 else 1e-3, warmup_steps=steps // 10, b2=0.99)
    config.training.steps = steps
    config.eval.update(every=steps // 5, tokens=20_000)
    config.samples.update(prompts=("**KING HENRY**\n", "## ACT"), max_new_tokens=48)
    return config
