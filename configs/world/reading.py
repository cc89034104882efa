"""Reading practice: questions behind passages of another world, in which the same names have other facts. ARG: an index of
world:passages?seed=1, and the world's size (docs/retrieval.md).

Of facts that the base knows nothing is learned about reading: it answers from memory. Needs a parent, of pretrain.py: --config.init.from=WORKDIR.
"""

from ptft_jax import config as configs


def get_config(arg: str = "indexes/other") -> configs.Config:
    index, _, size = arg.partition(",")
    config = configs.default()
    # Without numbers: these would be spelled in bytes, and two passages just fit into what the base reads.
    world = f"size={size or 'c'}&seed=1&retrieve={index}&k=1&passage={{text}}%20"
    config.data.source = f"world:retrieval?{world}&distractors=1&order=shuffled&no_answer=0.1"
    config.data.update(length=128, batch_size=16, overlong="drop")  # a few with long names: they are counted
    config.optimizer.update(learning_rate=2e-3, warmup_steps=20, schedule="linear", end_ratio=0.0)
    config.training.steps = 600
    config.eval.update(every=300)
    behavior = config.eval.behavior
    behavior.update(tasks=("retrieval",), source=f"world:retrieval?{world}", records=100, max_new_tokens=4)
    return config
