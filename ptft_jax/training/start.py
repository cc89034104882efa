"""The state of step 0: made from random numbers, or from a parent's parameters; and what of a checkpoint is made again."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax.config import seeds
from ptft_jax.errors import UserError, listed
from ptft_jax.model import spec as specs
from ptft_jax.model.quantized import plain_path
from ptft_jax.parallel.compile import donating
from ptft_jax.params import fingerprint as fingerprints
from ptft_jax.params import finite, vocabulary
from ptft_jax.params.rules import flatten, matches, unflatten
from ptft_jax.runs import source as restore
from ptft_jax.runs.checkpoint import compare, read
from ptft_jax.runs.loading import peft_adapter
from ptft_jax.runs.parent import Parent
from ptft_jax.runs.saving import Resumed
from ptft_jax.training.trainer import Trainer

if TYPE_CHECKING:
    from ptft_jax.training.importance import Importance


class Start:
    """Where a run starts. No parameters of the parent's are read before they are asked for."""

    def __init__(
        self,
        trainer: Trainer,
        parent: Parent | None,
        init: Mapping[str, Any],
        *,
        known_tokens: int = 0,
        continued: restore.Source | None = None,
    ):
        """
        Args:
          parent: what the parameters are taken from; None = random ones.
          init: of `config.init`, "weights", "fresh", "adapter" and "merge_into".
          known_tokens: how many tokens the parent's tokenizer has.
          continued: the checkpoint that the run goes on from with its optimizer.

        Raises:
          UserError: the run never trains what its adapter has in the place of the parent's.
        """
        self.trainer, self.parent, self.init, self.continued = trainer, parent, init, continued
        self._known, self._config = known_tokens, trainer.config
        self._refuse_lost()

    @functools.cached_property
    def _added(self) -> Any:
        """The adapter that the run starts with, read once; None where there is none."""
        if self.parent is None or not self.init["adapter"]:
            return None
        return peft_adapter(self.init["adapter"], self.parent, "config.init.adapter", self.init["merge_into"])

    @property
    def added_fingerprint(self) -> str:
        """Of the adapter that the run starts with, by what it holds; "" without one."""
        if self._added is None:
            return ""
        return fingerprints.fingerprint(
            fingerprints.checksums({**flatten(self._added.params), **flatten(self._added.replaced)})
        )

    def _refuse_lost(self) -> None:
        """A checkpoint holds what trains, and takes the rest from the parent, which has not what an adapter replaced."""
        if self._added is None:
            return
        frozen = {plain_path(leaf.source) for leaf in self.trainer.partition.leaves if not leaf.trains}
        if lost := sorted(frozen & flatten(self._added.replaced).keys()):
            raise UserError(
                "config.init.adapter: the adapter comes with these in the place of the base's, and no phase of the run trains them, "
                f"so that no checkpoint would hold them:{listed(lost)}\nlet them train: config.tune.phases, config.tune.rates"
            )

    def state(self, importance: Importance | None = None, check: Callable[[], None] = lambda: None) -> tuple[Any, str]:
        """The state of step 0, sharded from birth, and the fingerprint of the parent's parameters ("" without one).

        Args:
          importance: puts the importance of parameters into a state (`ptft_jax.training.importance.Importance`).
          check: is called between parts of what takes long, and may raise to end it.
        """
        params_key, run_key = seeds.pair(self._config.seed)
        make, base, fingerprint = self._maker()
        state = self.trainer.create(make, params_key, base, rng=run_key, donate=(1,))
        if importance is not None:
            state = importance.put(state, jax.random.fold_in(seeds.key(self._config.seed), 2), check)
        return state, fingerprint

    def trainable(self, recorded: str = "") -> tuple[dict[str, Any], str]:
        """What `state` gives, but of the state only the trainable leaves, whole: no second copy of the rest is made. Of a run that
        goes on from another, what it went on from. `recorded`: the fingerprint that the run has of its parent."""
        trainer = self.trainer
        if other := self.continued:
            like = trainer.stored_params(trainer.state_like)
            params = flatten(read(other.workdir, other.step, "params", like, other.meta))
            kept = unflatten({path: params[path] for path in flatten(trainer.state_like.trainable)})
            return kept, other.meta["parent_fingerprint"]
        params_key, _ = seeds.pair(self._config.seed)
        make, base, fingerprint = self._maker(recorded)
        part = jax.jit(
            lambda k, b: trainer.partition.split(make(k, b))[0], out_shardings=trainer.program.shardings.trainable
        )
        return part(params_key, base), fingerprint

    def frozen(self, recorded: str = "") -> tuple[dict[str, Any], str]:
        """What `state` gives, but of the state only the frozen leaves, whole; those of the parent are not copied. `recorded` as of
        `trainable`."""
        trainer = self.trainer
        params_key, _ = seeds.pair(self._config.seed)
        make, base, fingerprint = self._maker(recorded)
        part = donating(
            lambda k, b: trainer.partition.split(make(k, b))[1], trainer.program.shardings.frozen, donate=(1,)
        )
        return part(params_key, base), fingerprint

    def restored(self, resumed: Resumed, workdir: pathlib.Path) -> Any:
        """The state of a checkpoint of the run in `workdir`, where it was restored to. Raises UserError where it needs a base that has
        changed."""
        like, saved = self.trainer.state_like, resumed.meta
        frozen: dict[str, Any] = {}
        if self.trainer.refers_to_base:
            assert self.parent is not None, "whose checkpoints refer to a base started from one"
            frozen, fingerprint = self.frozen(saved["base"]["fingerprint"])
            if fingerprint != saved["base"]["fingerprint"]:
                raise UserError(f"{workdir}: its base {self.parent.name} changed since the run was started")
        flat = flatten(frozen) | flatten(resumed.params)

        def pick(form: Any) -> dict[str, Any]:
            return unflatten({path: flat[path] for path in flatten(form)})

        state = dataclasses.replace(
            like,
            step=np.asarray(saved["step"], np.int32),
            trainable=pick(like.trainable),
            frozen=pick(like.frozen),
            optimizer=resumed.training["optimizer"],
            rng=resumed.training["rng"],
            anchor=resumed.training.get("anchor", {}),
            **resumed.others,
            halted=np.zeros((), bool),
        )
        return self.trainer.program.adopt(state)

    def parameters_of(self, parent: Parent, **model: Any) -> dict[str, Any]:
        """A parent's parameters as `config.init` takes them, in this run's layout; `model` as its own `parameters` has it."""
        taken = {name: self.init[name] for name in ("weights", "merge_into")}
        ours = self._config.model
        model |= {name: ours[name] for name in specs.SIZES} if ours.image_size else {}
        return parent.parameters(self.trainer.layout, ours.param_dtype, wide=self.trainer.wide, **taken, **model)

    def as_kept(self, plain: Mapping[str, jax.Array], shapes: Mapping[str, Any] | None = None) -> dict[str, jax.Array]:
        """Parameters of a plain model (of `shapes`, else of this run's) by path, rounded to what frozen ones are kept in where
        they are that."""
        shapes = flatten(self.trainer.plain_shapes if shapes is None else shapes)
        wide = self.trainer.wide
        return {p: plain[p].astype(jnp.float32 if p in wide else a.dtype) for p, a in shapes.items()}

    def base(self) -> dict[str, Any]:
        """The parent's parameters, checked against this model and finite: all but those that are re-initialized."""
        assert self.parent is not None, "nothing of a run without a parent is from one"
        head = {name: self._config.as_dict()["model"][name] for name in specs.HEAD}
        have = flatten(self.parameters_of(self.parent, **head))
        fresh = self.init["fresh"]
        need = {p: a for p, a in flatten(self.trainer.plain_shapes).items() if not matches(fresh, p)}
        if self.trainer.new_rows:
            need |= {p: a for p, a in have.items() if p in vocabulary.AXES}
        differences = compare(unflatten(have), unflatten(need))
        if differences:
            raise UserError(f"config.init.from: {self.parent.name} does not fit this model:{listed(differences, 20)}")
        finite.refuse(have, f"config.init.from: {self.parent.name}", "\nnothing can be learned from them")
        return unflatten(have)

    def _maker(self, recorded: str = "") -> tuple[Callable[[jax.Array, Any], dict[str, Any]], dict[str, Any], str]:
        """(function of (key, the parent's parameters) that gives the whole parameters of step 0, those parameters, their
        fingerprint); {} and "" without a parent."""
        trainer = self.trainer
        if self.parent is None:
            return (lambda key, _: trainer.maker.init(key)), {}, ""
        base = self.base()
        fingerprint = restore.start_fingerprint(
            self.parent, base, self.init["weights"], self.init["merge_into"], recorded
        )
        added = self._added
        replaced, start = (flatten(added.replaced), flatten(added.params)) if added else ({}, {})
        fresh, known, spec, new_rows = self.init["fresh"], self._known, trainer.model.spec, trainer.new_rows

        def make(key: jax.Array, base: Any) -> dict[str, Any]:
            plain = flatten(base)
            plain |= {p: jnp.asarray(a, plain[p].dtype) for p, a in replaced.items()}
            if new_rows:
                old, own = unflatten(plain), jax.random.fold_in(key, 1)
                plain = flatten(vocabulary.grow(old, known, spec.vocab_size, new_rows, spec, own))
            if fresh:
                plain |= {p: a for p, a in flatten(trainer.plain_maker.init(key)).items() if matches(fresh, p)}
            whole = flatten(trainer.maker.init(key, unflatten(self.as_kept(plain))))
            whole |= {p: jnp.asarray(a, whole[p].dtype) for p, a in start.items()}
            return unflatten(whole)

        return make, base, fingerprint
