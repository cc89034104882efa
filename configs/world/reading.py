"""Reading practice: the world's questions behind passages of an index of world:passages. ARG: the index, and the world's size (docs/retrieval.md).

Needs a parent, of pretrain.py: --config.init.from=WORKDIR.
"""

from ptft_jax import config as configs


def get_config(arg: str = "indexes/people") -> configs.Config:
    index, _, size = arg.partition(",")
    config = configs.default()
    # Without numbers: these would be spelled in bytes, and two passages just fit into what the base reads.
    world = f"size={size or 'c'}&retrieve={index}&k=1&passage={{text}}%20"
    # What is told there, and what is not: of the later people nothing is asked.
    config.data.source = f"world:retrieval?{world}&distractors=1&order=shuffled&no_answer=0.1"
    config.data.update(length=128, batch_size=16, overlong="drop")  # a few with long names: they are counted
    config.optimizer.update(learning_rate=1e-3, warmup_steps=20, schedule="linear", end_ratio=0.0)
    config.training.steps = 400
    config.eval.update(every=200)
    behavior = config.eval.behavior
    behavior.update(tasks=("retrieval",), source=f"world:retrieval?{world}", records=100, max_new_tokens=4)
    return config
