"""Pre-training on the generated world: people, contradictions, grammar, rules. ARG: its size (docs/world.md)."""

from ptft_jax import config as configs

# Of the rows: what each stream has. The words of other streams are there for the tokenizer.
SHARES = {
    "biographies?multi=0&": 0.6, "links?": 0.02, "contradictions?": 0.12, "grammar?": 0.1, "arithmetic?": 0.12,
    "lookup?": 0.03, "junk?of=words&": 0.01,
}  # fmt: skip


def get_config(size: str = "c") -> configs.Config:
    config = configs.default()
    config.model.update(layers=3, width=128, heads=4, max_length=128, norm="rms", positions="rotary", scan=False)
    config.model.query_key_norm = "head"
    config.tokenizer.update(kind="words", vocab_size=8192 if size == "h" else 2048)
    config.data.mixture = tuple((f"world:{stream}size={size}", share) for stream, share in SHARES.items())
    config.data.update(packing="best_fit", length=128, batch_size=16)  # documents see none beside them
    config.optimizer.update(name="muon", learning_rate=1e-2, warmup_steps=20, schedule="linear", end_ratio=0.0, b2=0.99)
    config.training.steps = 1300
    recall = f"world:recall?size={size}&split=all"  # what stands at a fact's place, without a question
    config.eval.answers.update(source=recall, verifiers=("exact",), records=500, max_new_tokens=1)
    config.eval.update(every=325, tokens=20_000)
    return config
