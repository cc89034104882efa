"""The importance of a run's parameters to what came before it, put into its first state (EWC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ptft_jax.data import batches, builders, class_names, filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.options import DataOptions
from ptft_jax.errors import UserError, listed
from ptft_jax.parallel import mesh as meshes
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.regularization.fisher import Fisher
from ptft_jax.runs import source as restore
from ptft_jax.runs.parent import Parent
from ptft_jax.training.trainer import Trainer


class Importance:
    """To the parent on its data, and, by a factor, what the parent kept of it to those before it: the online form
    (Schwarz et al. 2018, "Progress & Compress").

    It is estimated on rows of what forgetting is measured on, of those that are trained on.
    """

    def __init__(
        self,
        trainer: Trainer,
        parent: Parent,
        source: DataOptions | None,
        tokenizer: tok.Tokenizer,
        builder: builders.Builder,
        head: class_names.Head,
        objective: Any,
    ):
        """
        Args:
          source: the data that forgetting is measured on, as `config.data`; None = not known.
          tokenizer, head: of the run.
          builder, objective: of what was learned from these data, the run's own where it learns from such, too.

        Raises:
          UserError: there are no such rows.
        """
        c, e = trainer.config, trainer.config.tune.ewc
        if source is None:
            raise UserError(
                f"config.tune.ewc.weight = {e.weight!r}: what {parent.name} was trained on is not known, or "
                "eval.parent_data is off: name it with eval.source"
            )
        read = source_splits.tokenized(source, source.source, "train", tokenizer, builder.kinds)
        tokens, _ = class_names.numbered(read, head)
        found = filling.filled(source, tokens, builder.plain, partial=False, seed=c.seed).rows
        if len(found) < e.rows:
            raise UserError(f"config.tune.ewc.rows = {e.rows}: the training split of {source.source} has {len(found)}")
        self._trainer, self._parent, self._gamma = trainer, parent, e.gamma
        self._per_device = c.parallel.compile == "pmap"
        self._rows = batches.drawn(found, e.rows, batch_size=c.data.batch_size, seed=c.seed)
        model = dataclasses.replace(trainer.model, constrain=None)
        together = 1 if self._per_device else meshes.row_groups(trainer.mesh)
        draws = e.draws if e.labels == "sampled" else 1
        self._fisher = Fisher(model, objective, trainer.partition, e.labels, together, draws)

    def put(self, state: Any, key: jax.Array, check: Callable[[], None] = lambda: None) -> Any:
        """The state of step 0 with the importance of its parameters. `check` is called before each batch, and may raise to end
        it. Raises UserError where the parent kept none of some."""
        program = self._trainer.program
        whole = program.whole(state)

        def placed() -> Iterator[Any]:
            for batch in self._rows:
                check()
                yield batch if self._per_device else program.place(batch)

        importance = flatten(self._fisher.estimate(whole.trainable, whole.frozen, placed(), key))
        for path, before in self._before().items():
            importance[path] += self._gamma * before
        return program.create(lambda s, f: dataclasses.replace(s, fisher=f), whole, unflatten(importance))

    def _before(self) -> dict[str, jax.Array]:
        """What the parent kept, cut as this run's parameters are; {} where it kept nothing or it is not wanted."""
        trainer = self._trainer
        kept = restore.fisher(self._parent, trainer.layout) if self._gamma else {}
        if not kept:
            return {}
        sizes = {path: a.shape for path, a in flatten(trainer.shapes).items()}
        trained = [leaf for leaf in trainer.partition.leaves if leaf.trains]
        bare = [leaf.source for leaf in trained if getattr(kept.get(leaf.source), "shape", None) != sizes[leaf.source]]
        if bare:
            raise UserError(
                f"config.tune.ewc.gamma = {self._gamma!r}: {self._parent.name} did not train these, or not in all layers, and "
                f"kept no importance of theirs to its own parent:{listed(dict.fromkeys(bare))}\nset tune.ewc.gamma=0"
            )
        return {f.path: kept[f.source] if f.layers is None else kept[f.source][slice(*f.layers)] for f in trained}
