"""What a config trains and how, before there is any data: model, partition, objective, optimizer and compiled programs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ptft_jax import adapters, objectives, pairing
from ptft_jax import config as configs
from ptft_jax.adapters import multi_adapter
from ptft_jax.adapters.base import Encode, Updates, is_added
from ptft_jax.config import metrics, seeds
from ptft_jax.errors import UserError, listed
from ptft_jax.model import spec as specs
from ptft_jax.model.quantized import plain_path
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import routing
from ptft_jax.optim import optimizers, schedules
from ptft_jax.parallel import context, sharding, tensor
from ptft_jax.parallel import mesh as meshes
from ptft_jax.params import phases, precision, vocabulary
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, matches, refuse_idle, unflatten
from ptft_jax.regularization import regularizers
from ptft_jax.runs import state as states
from ptft_jax.training.completion import default_rate
from ptft_jax.training.programs import PROGRAMS, Evaluations, Program
from ptft_jax.training.step import Step


class Compiled:
    """Steps over a mesh, and the form and layout of their state. Nothing is compiled before it is first run.

    Attributes:
      model, partition, mesh: as given.
      step: the first phase's (`ptft_jax.training.step.Step`).
      program: the compiled steps (`ptft_jax.training.programs`).
      shapes: whole parameters as the model has them.
      state_like: the state, as `ShapeDtypeStruct`s with their shardings.
      by_path: the sharding of each parameter, by its path.
    """

    def __init__(
        self,
        model: Transformer,
        partition: Partition,
        steps: Sequence[tuple[int, Step]],
        mesh: jax.sharding.Mesh,
        *,
        compiled: str = "jit",
        rules: Sequence[tuple[str, Any]] = sharding.DEFAULT_RULES,
        memory: str = "device",
    ):
        """
        Args:
          steps: of each phase, after the number of the update that it begins with; the first begins with 0.
          mesh: of live devices, or of a topology's.
          compiled: "jit" or "pmap".
          rules: of `config.parallel.rules`.
          memory: of `config.optimizer.memory`.
        """
        self.model, self.partition, self.mesh = model, partition, mesh
        (_, self.step), *later = steps
        self.shapes = model.shapes()
        self.by_path = sharding.of_params(self.shapes, rules, mesh)
        regularization = self.step.regularization
        self.make_state = functools.partial(
            states.create,
            optimizer=self.step.optimizer,
            ema=bool(self.step.ema_decay),
            anchor=regularization.anchored,
            fisher=bool(regularization.ewc),
        )
        split = jax.eval_shape(partition.split, self.shapes)
        like = jax.eval_shape(self.make_state, *split, rng=jax.eval_shape(lambda: jax.random.key(0)))
        shardings = sharding.of_state(like, self.by_path, mesh)
        if memory == "host":
            shardings = dataclasses.replace(shardings, optimizer=sharding.of_host(like.optimizer, shardings.optimizer))
        self.program: Program = PROGRAMS[compiled](self.step, mesh, shardings, later)
        self.state_like = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), like, shardings)

    def create(self, make: Callable[..., Any], *args: Any, rng: jax.Array, donate: Sequence[int] = ()) -> Any:
        """The state of step 0, sharded from birth.

        Args:
          make: gives the whole parameters from `args`.
          rng: the run's key.
          donate: numbers of the `args` that are given up.
        """
        return self.program.create(
            lambda r, *a: self.make_state(*self.partition.split(make(*a)), rng=r),
            rng,
            *args,
            donate=[number + 1 for number in donate],
        )

    def layout(self, stored: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        """Where a stored leaf goes."""
        found = sharding.of_stored(stored, shape, self.by_path, self.mesh)
        return found or jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())


class Trainer(Compiled):
    """What a config trains and how. It is built by evaluating shapes: no data, parent or live devices are needed, and no array is
    made. The same object serves training, tests, benchmarks, and plans for a topology.

    Attributes:
      adapter: what the fine-tuning method adds to the model; None = nothing.
      plain: the model without it.
      objective, measures: of the steps.
      regularization: of the steps, too.
      learning_rate: a function of the number of updates that were done.
      phases: when what trains (`ptft_jax.params.phases`).
      wide: paths of a parent's parameters that are read in float32 whatever `model.param_dtype` is.
      notes: what people should know of it.
    """

    def __init__(
        self,
        config: configs.Config | Mapping[str, Any],
        *,
        vocab_size: int = 0,
        mesh: jax.sharding.Mesh | None = None,
        encode: Encode | None = None,
        tuned: bool | None = None,
    ):
        """
        Args:
          config: the whole config; of a fine-tuning run completed by its parent's (`ptft_jax.training.completion.resolve`).
          vocab_size: rows of the token table where `config.model.vocab_size` does not say it.
          mesh: of the devices, live ones or a topology's; by default all that there are, as `config.parallel` has it.
          encode: a text to token ids, for methods that start from a text.
          tuned: whether the run starts from a parent's parameters; by default where `config.init.from` names one. A run that goes on
            from another with its optimizer (`init.optimizer`) starts from what that one started from.

        Raises:
          UserError: settings that contradict each other or have no effect, or a size that is missing.
        """
        c = config if isinstance(config, configs.Section) else configs.settled(config)
        self.notes: list[str] = []
        self.tuned = bool(c.init.from_ and not c.init.optimizer) if tuned is None else tuned
        self.config = c
        self._fresh = tuple(c.init.fresh) if self.tuned else ()
        self.objective = objectives.build(c.objective)
        self.new_rows = c.tokenizer.new_rows if c.tokenizer.add and self.tuned else ""
        pairing.check_model(c.objective.name, c.model, c.tables.objectives)
        mesh = mesh or meshes.of_options(c.parallel)
        self._refuse_host(mesh)
        self._build_model(vocab_size, encode, sharding.Rows(mesh) if c.parallel.compile == "jit" else None)
        partition = self._partition()
        steps = self._steps(partition)
        super().__init__(
            self.model, partition, steps, mesh,
            compiled=c.parallel.compile, rules=c.parallel.rules, memory=c.optimizer.memory,
        )  # fmt: skip

    def _build_model(self, vocab_size: int, encode: Encode | None, constrain: sharding.Rows | None) -> None:
        c = self.config
        rows = 0 if specs.wordless(c.model) else max(vocab_size, c.model.vocab_size)
        if not rows and not specs.wordless(c.model):
            raise UserError("config.model.vocab_size = 0: without a tokenizer the size has to be given")
        self.adapter = adapters.build(c.tune, None if c.model.image_size else encode)
        spec = specs.from_config(c.model, rows)
        self.plain = Transformer(spec, None, constrain)
        if constrain is not None:
            tensor.check(spec.resolved, self.plain.shapes(), constrain.mesh)
        if self.adapter is not None:
            self.adapter.check(self.plain.shapes())
            if self.tuned and c.init.adapter:
                self.notes.append(f"tune.method={c.tune.method!r}, as the adapter of config.init.adapter has it")
            if self.adapter.note:
                self.notes.append(self.adapter.note)
        self.model = self.plain  # known by shapes already
        if self.adapter is not None or self.objective.value_head:
            self.model = Transformer(spec, self.adapter, constrain, value_head=self.objective.value_head)
        if self.model.quantization and not self.tuned:
            raise UserError("config.tune.quantize.format: without init.from there is no base to quantize")
        self._check_length()
        if constrain is not None:
            field = self.adapter.field if self.adapter is not None else ""
            context.check(self.model, c.data.length, constrain.mesh, field)
        self.plain_shapes = self.plain.shapes()
        refuse_idle(self._fresh, flatten(self.plain_shapes), "config.init.fresh", "parameter")
        if self.adapter is not None and self.model.quantization:
            made = [p for p in flatten(self.plain_shapes) if matches(self._fresh, p) and self.adapter.quantizes(p)]
            if made:
                raise UserError(f"config.init.fresh: these are quantized kernels, which cannot train:{listed(made)}")
        # What trains starts from the parent's own numbers, and what methods add from float32.
        self.maker, self.plain_maker = (
            dataclasses.replace(m, spec=dataclasses.replace(spec, param_dtype="float32"))
            for m in (self.model, self.plain)
        )

    def _refuse_host(self, mesh: jax.sharding.Mesh) -> None:
        """Raises UserError where something is to be kept in the host's memory that cannot be."""
        c = self.config
        for path, value, moved, expected in (
            ("optimizer.memory", c.optimizer.memory, "host", "device"),
            ("model.remat", c.model.remat, "offload", "dots"),
        ):
            if value == moved and mesh.devices.flat[0].platform == "cpu":
                raise UserError(f"config.{path} = {value!r}: a CPU has no memory but the host's: expected {expected!r}")
            if value == moved and c.parallel.compile == "pmap":
                raise UserError(f"config.{path} = {value!r}: expected {expected!r} with parallel.compile='pmap'")

    def _check_length(self) -> None:
        length, spec = self.config.data.length, self.model.spec
        taken = spec.max_length - self.model.max_tokens
        if self.adapter is not None and taken and not spec.image_size and length > self.model.max_tokens:
            field = self.adapter.field
            what = f"{field}: the methods take {taken} positions" if field == "tune" else f"{field}.length = {taken}"
            raise UserError(f"config.{what}: with data.length {length} above model.max_length {spec.max_length}")

    def _partition(self) -> Partition:
        c, shapes = self.config, self.model.shapes()
        self.phases = phases.of_config(c.tune, self.model.spec.layers, c.training.steps)
        by_rule = c.tune.rates or self.adapter is not None
        rates: Sequence[tuple[str, float]] = adapters.rates(c.tune, self._fresh)
        if self.model.value_head and not c.tune.rates:  # which say all rates
            rates = self._values_first(rates, c.objective.policy.value_rate)
        partition = Partition.of(
            shapes,
            rates,
            "config.tune.rates" if by_rule else f"config.tune.train = {c.tune.train!r}",
            layer_decay=c.tune.layer_decay,
            phases=[(phase.name, self._values_first(phase.rules(self._fresh), 1.0)) for phase in self.phases],
            kept=precision.Kept(c.training.state_dtype, is_added),
        )
        self.wide = precision.read_wide(partition, shapes, is_added)
        self._refuse_frozen_new(partition)
        self._refuse_values_alone(partition)
        self._refuse_unseen(partition)
        if c.model.param_dtype == "bfloat16" and all(f.trains or is_added(f.source) for f in partition.leaves):
            self.notes.append(
                "model.param_dtype='bfloat16' is for what is frozen, and nothing is: parameters, moments and averages are kept in "
                f"training.state_dtype={c.training.state_dtype!r}"
            )
        return partition

    def _values_first(self, rules: Sequence[tuple[str, float]], rate: float) -> Sequence[tuple[str, float]]:
        """Rules of what trains, by which the value head does, where there is one: it starts without knowing anything."""
        return ((specs.VALUES, rate), *rules) if self.model.value_head else rules

    def _refuse_values_alone(self, partition: Partition) -> None:
        """As `Partition.of` does: a value head that trains is not yet a model that does."""
        if not self.model.value_head:
            return
        trained = [f.phases for f in partition.leaves if f.trains and not matches((specs.VALUES,), f.source)]
        if not trained:
            raise UserError("config.tune: everything but the value head is frozen, nothing would be learned")
        for number, phase in enumerate(self.phases):
            if not any(opened[number] for opened in trained):
                raise UserError(f"{phase.name}: trains nothing of what the run trains but the value head")

    def _refuse_unseen(self, partition: Partition) -> None:
        """What reads images has to be frozen where the objective gives the model none: nothing but decay would move it."""
        c = self.config
        if not self.model.spec.tower or c.tables.objectives[c.objective.name].tower or not self._updates:
            return
        if unseen := [f.source for f in partition.leaves if f.trains and matches(("(tower|projector)/.*",), f.source)]:
            raise UserError(
                f"config.tune.rates: objective.name = {c.objective.name!r} gives the model no images, and these train:{listed(unseen, 5)}\nfreeze "
                f"them, before all else: tune.rates={(('(tower|projector)/.*', 0.0), *(self.config.tune.rates or (('.*', 1.0),)))}"
            )

    @property
    def _updates(self) -> bool:
        """Whether the run makes any."""
        return bool(self.config.training.steps or self.config.training.epochs)

    def _refuse_frozen_new(self, partition: Partition) -> None:
        """What is re-initialized has to train: random numbers would stay in the model, and no checkpoint of an adapter would
        hold them."""
        frozen = {plain_path(f.source) for f in partition.leaves if not f.trains}
        if values := [path for path in sorted(frozen) if matches((specs.VALUES,), path)]:
            raise UserError(
                f"config.tune.rates: the value head starts without knowing anything, and is frozen:{listed(values)}\nlet it train: "
                f"tune.rates={(*((path, 1.0) for path in values), *self.config.tune.rates)}"
            )
        made = [p for p in sorted(frozen) if matches(self._fresh, p) or (self.new_rows and p in vocabulary.AXES)]
        if made:
            field = "init.fresh" if matches(self._fresh, made[0]) else "tokenizer.add"
            rules = (*((path, 1.0) for path in made), *adapters.rates(self.config.tune, self._fresh))
            raise UserError(
                f"config.{field}: these are re-initialized, but frozen:{listed(made)}\nlet them train: tune.rates={rules}"
            )

    def _refuse_parts(self) -> None:
        """Raises UserError for a batch that would be run in parts where every row's loss is made of all rows."""
        c = self.config
        for path, value, expected in (
            ("training.micro_batches", c.training.micro_batches, 1),
            ("parallel.compile", c.parallel.compile, "jit"),
            ("tune.adapters", c.tune.adapters, ()),
        ):
            if self.objective.crosses_rows and value != expected:
                raise UserError(
                    f"config.{path} = {value!r}: objective.name = {c.objective.name!r} compares each row with all others of its batch, so the "
                    f"batch is not run in parts: expected {expected!r}"
                )

    def _steps(self, partition: Partition) -> list[tuple[int, Step]]:
        """Of each phase: the number of the update that it begins with, and its step."""
        c = self.config
        rate = c.optimizer.learning_rate or default_rate(c.as_dict(), self.tuned)
        self.learning_rate = phases.scaled(schedules.from_config(c.optimizer, c.training.steps, rate), self.phases)
        started = self.tuned or c.init.optimizer
        alone = self.objective.needs_parent and not self.objective.needs_reference and not started
        section = self.objective.section
        if alone and not (c.objective[section] if section else c.objective).from_random:
            raise UserError(
                f"config.init.from is missing: objective.name = {c.objective.name!r} teaches a model that can write which answers are "
                f"better, and this one would start from random parameters: name a parent, or set "
                f"{'.'.join(filter(None, ('objective', section, 'from_random')))}=True"
            )
        if self.objective.gathers and c.tune.adapters:
            raise UserError(
                f"config.tune.adapters: objective.name = {c.objective.name!r} compares all rows of a batch with the reference at once, and "
                "each adapter is a model of its own: train them in runs of their own"
            )
        self._refuse_parts()
        parent = {"tuned": self.tuned, "fresh": self._fresh, "compared": self.objective.needs_reference}
        parent["kept"] = not self.objective.precomputed
        self.regularization = regularizers.build(c, partition, self.model, **parent)
        self.measures = metrics.chosen(c.eval.metrics, c.tables.metrics)
        if taken := [name for name, _ in self.measures if name in self.objective.metrics]:
            raise UserError(f"config.eval.metrics: {taken[0]!r} is a metric of objective.name = {c.objective.name!r}")
        if self.regularization.ewc and "nll" not in self.objective.metrics:
            raise UserError(
                f"config.tune.ewc.weight = {c.tune.ewc.weight!r}: what matters to a model is told by its cross-entropy, and "
                f"objective.name = {c.objective.name!r} has none among its metrics ({', '.join(self.objective.metrics)})"
            )
        if self.regularization.ewc and not self.objective.informs:
            raise UserError(
                f"config.tune.ewc.weight = {c.tune.ewc.weight!r}: objective.name = {c.objective.name!r} does not tell what matters to a model: "
                "use tune.l2_sp, tune.mixout or tune.start_decay"
            )
        own = Updates() if self.adapter is None else self.adapter.updates(partition, c.training.steps)
        apart = multi_adapter.apart(self.adapter, partition)

        spec = self.model.spec
        ratio = spec.width_ratio if spec.mup_base_width else 0.0
        if ratio not in (0, 1):
            self.notes.append(
                f"muP: updates of kernels that the width goes into are divided by {ratio:g} (model.mup_base_width)"
            )

        def step(phase: int) -> Step:
            pull = self.regularization.start_decay
            options = dict(phase=phase, start_decay=pull, apart=apart, ratio=ratio, **own._asdict())
            return Step(
                self.model,
                self.objective,
                partition,
                optimizers.build(c.optimizer, self.learning_rate, partition, **options),
                c.training.micro_batches,
                c.training.ema_decay,
                self.regularization,
                partition.frozen_in(phase),
                apart,
                routing.build(c.objective, self.model.spec, partition, phase, apart),
                self.measures,
                self.learning_rate,
            )

        starts = [0, *(phase.start for phase in self.phases[1:])]
        return [(start, step(number)) for number, start in enumerate(starts)]

    def metrics(self, objective: Any = None) -> tuple[str, ...]:
        """The names of all that an evaluation measures, but bits per byte; by `objective`, where it is another than the run's."""
        chosen = objective or self.objective
        return (*chosen.metrics, *chosen.scores, *(name for name, _ in self.measures))

    def evaluations(self, objective: Any) -> Evaluations:
        """Compiled evaluations of the state by another objective than the run's, which must not need a reference."""
        if objective.needs_reference:
            raise UserError(
                f"what the parent learned by, {type(objective).__name__}, compares a model with its own parent, which this run does not "
                "know, and its ObjectiveSpec names no objective to measure it by without that (alone): set eval.parent_data=False"
            )
        regularization = dataclasses.replace(self.step.regularization, compared=False)
        return self.program.evaluations(
            dataclasses.replace(self.step, objective=objective, regularization=regularization)
        )

    def init(self, seed: int | None = None) -> Any:
        """The state of step 0 with random parameters, as a run without a parent has it. `seed`: by default `config.seed`."""
        params_key, run_key = seeds.pair(self.config.seed if seed is None else seed)
        return self.create(self.maker.init, params_key, rng=run_key)

    # What checkpoints hold

    @property
    def refers_to_base(self) -> bool:
        """Whether a checkpoint holds only what differs from the parent."""
        return self.tuned and self.adapter is not None

    def stored_params(self, state: states.TrainState) -> dict[str, Any]:
        """The leaves a checkpoint holds: all, or only what trains or was added where the rest is the parent's, unchanged."""
        frozen = {p: a for p, a in flatten(state.frozen).items() if is_added(p) or not self.refers_to_base}
        return unflatten({**flatten(state.trainable), **frozen})
