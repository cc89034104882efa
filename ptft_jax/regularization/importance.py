"""The importance of a run's parameters to what came before it, put into its first state (EWC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ptft_jax.data import batches, class_names, pipeline
from ptft_jax.errors import UserError, listed
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.regularization.fisher import Fisher
from ptft_jax.runs import source as restore


class Importance:
    """To the parent on its data, and, by a factor, what the parent kept of it to those before it: the online form
    (Schwarz et al. 2018, "Progress & Compress").

    It is estimated on rows of what forgetting is measured on, of those that are trained on.
    """

    def __init__(self, run: Any):
        """`run` is an assembled one (`ptft_jax.run.Run`) but for its states. Raises UserError where there are no such rows."""
        c, data, e = run.config, run.source, run.config.tune.ewc
        if data is None:
            raise UserError(
                f"config.tune.ewc.weight = {e.weight!r}: what {run.parent.name} was trained on is not known, or "
                "eval.parent_data is off: name it with eval.source"
            )
        tokens, _ = class_names.numbered(pipeline.tokenised(data, data.source, "train", run.tokenizer), run.head)
        found = pipeline.filled(data, tokens, run.builder, partial=False, seed=c.seed).rows
        if len(found) < e.rows:
            raise UserError(f"config.tune.ewc.rows = {e.rows}: the training split of {data.source} has {len(found)}")
        self._run, self._gamma, self._per_device = run, e.gamma, c.parallel.compile == "pmap"
        self._rows = batches.drawn(found, e.rows, batch_size=c.data.batch_size, seed=c.seed)
        model = dataclasses.replace(run.model, constrain=None)
        together = 1 if self._per_device else run.mesh.size
        draws = e.draws if e.labels == "sampled" else 1
        self._fisher = Fisher(model, run.objective, run.partition, e.labels, together, draws)

    def put(self, state: Any, key: jax.Array, check: Callable[[], None] = lambda: None) -> Any:
        """The state of step 0 with the importance of its parameters. `check` is called before each batch, and may raise to end
        it. Raises UserError where the parent kept none of some."""
        run = self._run
        whole = run.program.whole(state)

        def placed() -> Iterator[Any]:
            for batch in self._rows:
                check()
                yield batch if self._per_device else run.program.place(batch)

        importance = flatten(self._fisher.estimate(whole.trainable, whole.frozen, placed(), key))
        for path, before in self._before().items():
            importance[path] += self._gamma * before
        return run.program.create(lambda s, f: dataclasses.replace(s, fisher=f), whole, unflatten(importance))

    def _before(self) -> dict[str, jax.Array]:
        """What the parent kept, cut as this run's parameters are; {} where it kept nothing or it is not wanted."""
        run = self._run
        kept = restore.fisher(run.parent, run.layout) if self._gamma else {}
        if not kept:
            return {}
        sizes = {path: a.shape for path, a in flatten(run.shapes).items()}
        trained = [leaf for leaf in run.partition.leaves if leaf.trains]
        bare = [leaf.source for leaf in trained if getattr(kept.get(leaf.source), "shape", None) != sizes[leaf.source]]
        if bare:
            raise UserError(
                f"config.tune.ewc.gamma = {self._gamma!r}: {run.parent.name} did not train these, or not in all layers, and "
                f"kept no importance of theirs to its own parent:{listed(dict.fromkeys(bare))}\nset tune.ewc.gamma=0"
            )
        return {f.path: kept[f.source] if f.layers is None else kept[f.source][slice(*f.layers)] for f in trained}
