"""Assembles a run from a config and carries it out. The only file that knows all the parts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ptft_jax import adapters, environment, identity, objectives, pairing, seeds
from ptft_jax import config as configs
from ptft_jax.adapters import several
from ptft_jax.adapters.base import Updates, is_added
from ptft_jax.adapters.quantized import QuantizedBase
from ptft_jax.data import batches, builders, class_names, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError, few, listed, nearest
from ptft_jax.evaluation import evaluate, measured, sampler
from ptft_jax.loading import continued, head_of, peft_adapter, resolve
from ptft_jax.model import spec as specs
from ptft_jax.model.quantized import plain_path
from ptft_jax.model.transformer import Transformer
from ptft_jax.objectives import routing
from ptft_jax.optim import optimizers, schedules
from ptft_jax.parallel import compile as compiling
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import processes, sharding
from ptft_jax.parallel.compile import donating
from ptft_jax.params import finite, phases, precision, vocabulary
from ptft_jax.params.partition import Partition
from ptft_jax.params.rules import flatten, matches, refuse_idle, unflatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import lease, places
from ptft_jax.runs.checkpoint import compare, read
from ptft_jax.runs.saving import Resumed
from ptft_jax.training import careful, restore
from ptft_jax.training import state as states
from ptft_jax.training.execution import Execution, finished
from ptft_jax.training.importance import Importance
from ptft_jax.training.loop import Schedule
from ptft_jax.training.selection import Selection
from ptft_jax.training.step import Step


def device_rows(rows: int) -> int:
    """`rows` rounded up to a multiple of the devices."""
    return -(-rows // jax.device_count()) * jax.device_count()


class Run:
    """One run, assembled: everything but its arrays exists, and every setting has been read."""

    def __init__(self, config: Mapping[str, Any], workdir: pathlib.Path, reporter: Reporter):
        self.continued = continued(configs.check(config, complete=False), workdir)
        self.config, self.parent = resolve(config, workdir)
        c = self.config
        self.workdir, self.reporter = pathlib.Path(workdir), reporter
        self._refuse_other_run()
        self.first_step = self.continued.step if self.continued else 0
        if self.continued and c.training.steps <= self.first_step:
            raise UserError(
                f"config.training.steps = {c.training.steps}: expected more than the {self.first_step} of {self.continued.name}, which "
                "count too (init.optimizer)"
            )
        self.mesh = meshes.make(c.parallel.replica, c.parallel.fsdp)
        self.init = c.init.read_all() if self.parent else {"weights": "auto", "fresh": (), "adapter": ""}
        self._check_rows()
        pairing.check_model(c.objective.name, c.model)
        pairing.check_samples(c.objective.name, c.samples.prompts)
        self._load_data()
        self._build_model()
        self._build_step()
        self.batches = functools.partial(
            batches.training,
            self.data.sets,
            self.data.mixture,
            batch_size=c.data.batch_size,
            seed=c.seed,
            prefetch=c.data.prefetch,
            adapters=bool(self.adapters),
        )
        self.selection = self._selection()
        self.checkpoint_options = {"keep_latest": c.checkpoint.keep_latest, "keep_best": c.checkpoint.keep_best}
        self.sampler = sampler.build(c, self.model, self.partition, self.tokenizer)
        self.plan = Schedule(
            steps=c.training.steps,
            eval_every=c.eval.every,
            save_every=c.checkpoint.every,
            sample_every=c.samples.every if c.samples.prompts else 0,
            log_every=c.log.every,
        )
        self.tensorboard = c.log.tensorboard and not environment.missing("tensorboard")
        if c.log.tensorboard and not self.tensorboard:
            reporter.say(f"no TensorBoard event files: {environment.missing('tensorboard')} (or log.tensorboard=False)")
        for told in c.refuse_unread():
            reporter.say(told)

    # Assembly

    def _refuse_other_run(self) -> None:
        path = self.workdir / "config.json"
        if not path.exists() or not restore.begun(self.workdir):
            return
        before, now = restore.read_config(self.workdir).as_dict(), self.config.as_dict()
        changed = [
            f"{name}: {configs.get(before, name)!r} -> {configs.get(now, name)!r}"
            for name, _ in configs.fields()
            if configs.get(before, name) != configs.get(now, name) and not name.startswith(configs.HOW)
        ]
        if changed:
            raise UserError(
                f"{self.workdir} holds a run with another config:{listed(changed, 20)}\n"
                "Choose another --workdir (init.from can start from this one), or give the same config to continue it"
            )

    def _check_rows(self) -> None:
        c, devices = self.config, self.mesh.size
        if c.parallel.compile == "pmap" and jax.process_count() > 1:
            raise UserError("config.parallel.compile = 'pmap' is for a single process: 'jit' runs on several")
        per_step = c.data.batch_size // c.training.micro_batches
        rows = [
            ("data.batch_size / training.micro_batches", per_step),
            ("eval.batch_size", c.eval.batch_size or c.data.batch_size),
        ]
        for name, value in rows:
            if value % devices:
                raise UserError(f"config.{name} = {value}: expected a multiple of the {devices} devices")

    def _load_data(self) -> None:
        c = self.config
        parent = self.parent.tokenizer if self.parent else None
        if self.continued:
            self.tokenizer, _ = self.continued.tokenizer, c.tokenizer.read_all()
        else:
            texts = functools.partial(pipeline.training_texts, c.data, pairing.NEEDS[c.objective.name].kinds)
            self.tokenizer = tok.build(c.tokenizer, texts, parent)
        self.known_tokens = parent.vocab_size if parent else 0
        self.adapters = pipeline.numbered(c.data, c.tune.adapters)
        self.builder = builders.build(c.objective, self.tokenizer)
        options = {"steps": c.training.steps, "seed": c.seed}
        self.data = pipeline.training(c.data, self.tokenizer, self.builder, **options, head=self._start_head())
        self._check_template()
        self.head = self.data.head.settled()
        sets = measured.sets(c, self.parent, self.tokenizer, self.builder, self.adapters, self.reporter, self.head)
        self.eval_batches, self.test_batches, self.source = sets

    def _start_head(self) -> class_names.Head:
        """The classes that the head has at the start: the parent's, but as they were numbered where the run has begun (earlier
        versions numbered those of a child by its data)."""
        head = class_names.of(self.continued) if self.continued else head_of(self.parent, self.init["fresh"])
        begun = class_names.recorded(self.workdir) if head.owner and restore.begun(self.workdir) else ()
        return dataclasses.replace(head, names=begun) if begun else head

    def _check_template(self) -> None:
        if self.parent is None or self.tokenizer is None:
            return
        template = self.config.data.template
        mine = identity.Identity("this run", {}, None, identity.template(template, self.tokenizer, self.data.table))
        theirs = identity.Identity(self.parent.name, {}, None, identity.template_of(self.parent, self.parent.tokenizer))
        identity.check_templates(theirs, mine, f"; give config.data.template as {self.parent.name} has it")

    def _build_model(self) -> None:
        c = self.config
        constrain = sharding.Rows(self.mesh) if c.parallel.compile == "jit" else None
        self.new_rows = ""
        self.adapter = adapters.build(c.tune, None if c.model.image_size else self.tokenizer.encode)
        rows = c.model.vocab_size or self.tokenizer.vocab_size
        if c.tokenizer.add:
            self.new_rows = c.tokenizer.new_rows if self.parent else ""
            rows = max(rows, self.tokenizer.vocab_size)
        tok.check_fits(self.tokenizer, rows, "config.model.vocab_size")
        spec = specs.from_config(c.model, rows)
        self.classes: tuple[str, ...] = ()
        if self.builder.labelled:
            self._check_classes(spec.classes)
            self.classes = class_names.filled(self.head.names, spec.classes)
        plain = Transformer(spec, None, constrain)
        if self.adapter is not None:
            self.adapter.check(plain.shapes())
            if self.init["adapter"]:
                self.reporter.say(f"tune.method={c.tune.method!r}, as the adapter of config.init.adapter has it")
            if self.adapter.note:
                self.reporter.say(self.adapter.note)
        if isinstance(self.adapter, QuantizedBase) and self.parent is None:
            raise UserError("config.tune.quantize.format: without init.from there is no base to quantise")
        self.plain, self.model = plain, Transformer(spec, self.adapter, constrain)
        self._check_length()
        self._check_whole_rows()
        self.shapes = self.model.shapes()
        self.plain_shapes = plain.shapes()
        refuse_idle(self.init["fresh"], flatten(self.plain_shapes), "config.init.fresh", "parameter")
        fresh = tuple(self.init["fresh"])
        if isinstance(self.adapter, QuantizedBase):
            made = [p for p in flatten(self.plain_shapes) if matches(fresh, p) and self.adapter.quantizes(p)]
            if made:
                raise UserError(f"config.init.fresh: these are quantised kernels, which cannot train:{listed(made)}")
        self.phases = phases.of_config(c.tune, spec.layers, c.training.steps)
        self.partition = Partition.of(
            self.shapes,
            adapters.rates(c.tune, fresh),
            "config.tune.rates"
            if c.tune.rates or self.adapter is not None
            else f"config.tune.train = {c.tune.train!r}",
            layer_decay=c.tune.layer_decay,
            phases=[(phase.name, phase.rules(fresh)) for phase in self.phases],
            kept=precision.Kept(c.training.state_dtype, is_added),
        )
        # What trains starts from the parent's own numbers, and what methods add from float32.
        self.wide = precision.read_wide(self.partition, self.shapes, is_added)
        self.maker, self.plain_maker = (
            dataclasses.replace(m, spec=dataclasses.replace(spec, param_dtype="float32")) for m in (self.model, plain)
        )
        self._refuse_frozen_new()
        if c.model.param_dtype == "bfloat16" and all(f.trains or is_added(f.source) for f in self.partition.leaves):
            self.reporter.say(
                "model.param_dtype='bfloat16' is for what is frozen, and nothing is: parameters, moments and averages are kept in "
                f"training.state_dtype={c.training.state_dtype!r}"
            )
        rules = tuple(tuple(rule) for rule in c.parallel.rules)
        self.by_path = sharding.of_params(self.shapes, rules, self.mesh)

    def _check_classes(self, count: int) -> None:
        evaluated = [b["targets"] for s in (self.eval_batches, self.test_batches) for rows in s.values() for b in rows]
        largest = max(int(labels.max()) for labels in (*(s.store.labels for s in self.data.sets), *evaluated))
        largest = max(*processes.gather(largest), len(self.head.names) - 1)
        if largest >= count:
            names = f" ({few(self.head.names)})" if self.head.names else f": the largest label is {largest}"
            raise UserError(f"config.model.classes = {count}: the data have {largest + 1} classes{names}")

    def _check_whole_rows(self) -> None:
        if not (why := self.model.one_text_a_row):
            return
        evaluated = [rows for found in (self.eval_batches | self.test_batches).values() for rows in found]
        packed = any(rows.packed for rows in self.data.sets) or any(
            rows.get("segments", np.zeros(1)).max() > 1 for rows in evaluated
        )
        if max(processes.gather(int(packed))):
            raise UserError(
                f"config.data.packing = {self.config.data.packing!r}: rows of several texts cannot share learned vectors before "
                f"the tokens (tune.method) in a model with {why}: set data.packing='none'"
            )

    def _check_length(self) -> None:
        length, spec = self.config.data.length, self.model.spec
        taken = spec.max_length - self.model.max_tokens
        if taken and not spec.image_size and length > self.model.max_tokens:
            field = self.adapter.field
            what = f"{field}: the methods take {taken} positions" if field == "tune" else f"{field}.length = {taken}"
            raise UserError(f"config.{what}: with data.length {length} above model.max_length {spec.max_length}")

    def _build_step(self) -> None:
        c = self.config
        self.learning_rate = phases.scaled(schedules.from_config(c.optimizer, c.training.steps), self.phases)
        self.careful = careful.build(c, self.partition, self.model, parent=self.parent, fresh=tuple(self.init["fresh"]))
        self.objective = objectives.build(c.objective)
        self.importance = Importance(self) if self.careful.ewc else None
        own = Updates() if self.adapter is None else self.adapter.updates(self.partition, c.training.steps)
        apart = several.apart(self.adapter, self.partition)

        def step(phase: int) -> Step:
            pull = self.careful.start_decay
            options = dict(phase=phase, start_decay=pull, apart=apart, **own._asdict())
            return Step(
                self.model,
                self.objective,
                self.partition,
                optimizers.build(c.optimizer, self.learning_rate, self.partition, **options),
                c.training.micro_batches,
                c.training.ema_decay,
                self.careful,
                self.partition.shut(phase),
                apart,
                routing.build(c.objective, self.model.spec, self.partition, phase, apart),
            )

        self.step = step(0)
        later = [(phase.start, step(number)) for number, phase in enumerate(self.phases) if number]
        self.make_state = functools.partial(
            states.create,
            optimizer=self.step.optimizer,
            ema=bool(c.training.ema_decay),
            anchor=self.careful.anchored,
            fisher=bool(self.careful.ewc),
        )
        split = jax.eval_shape(self.partition.split, self.shapes)
        like = jax.eval_shape(self.make_state, *split, rng=jax.random.key(0))
        shardings = sharding.of_state(like, self.by_path, self.mesh)
        self.program = compiling.PROGRAMS[c.parallel.compile](self.step, self.mesh, shardings, later)
        self.state_like = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), like, shardings)
        if c.training.steps:
            rows = batches.forms(self.data.sets, c.data.batch_size, adapters=bool(self.adapters))
            self.program.check(self.state_like, rows)

    def _selection(self) -> Selection:
        s = self.config.select
        budget = {}
        if s.source_budget:
            if "source" not in self.eval_batches:
                reason = "set eval.source" if self.parent else "init.from names no parent"
                if self.config.tune.adapters:
                    reason = "as one number; with tune.adapters each of these has its own"
                raise UserError(
                    f"config.select.source_budget = {s.source_budget!r}: forgetting is not measured: {reason}"
                )
            budget = {"source_budget": s.source_budget, "stop_over_budget": s.stop_over_budget}
        lengths = tok.byte_lengths(self.tokenizer) if self.objective.chained else None
        known = evaluate.names(self.eval_batches, self.objective, lengths, self.measured_raw)
        if s.metric not in known:
            raise UserError(
                f"config.select.metric = {s.metric!r}: evaluations of this run give {', '.join(known)}{nearest(s.metric, known)}"
            )
        return Selection(s.metric, s.mode, s.patience, s.min_delta, **budget)

    @property
    def measured_raw(self) -> tuple[str, ...]:
        """The sets that the parameters themselves are measured on, too, beside their average."""
        return ("validation",) if self.config.training.ema_decay else ()

    # Arrays

    def layout(self, stored: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        """Where a stored leaf goes."""
        found = sharding.of_stored(stored, shape, self.by_path, self.mesh)
        return found or jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    def start(self, check: Callable[[], None] = lambda: None) -> tuple[Any, str]:
        """The state of step 0, sharded from birth, and the fingerprint of the parent's parameters ("" without one). `check` is
        called between parts of what takes long, and may raise to end it."""
        key = seeds.key(self.config.seed)
        params_key, run_key = jax.random.split(key)
        make, base, print_ = self._maker()
        state = self.program.create(
            lambda k, b, r: self.make_state(*self.partition.split(make(k, b)), rng=r),
            params_key,
            base,
            run_key,
            donate=(1,),
        )
        if self.importance is not None:
            state = self.importance.put(state, jax.random.fold_in(key, 2), check)
        return state, print_

    def start_trainable(self) -> tuple[dict[str, Any], str]:
        """What `start` gives, but of the state only the trainable leaves, whole: no second copy of the rest is made. Of a run that
        goes on from another, what it went on from."""
        if other := self.continued:
            params = flatten(read(other.workdir, other.step, "params", self.stored_params(self.state_like), other.meta))
            trainable = unflatten({path: params[path] for path in flatten(self.state_like.trainable)})
            return trainable, other.meta["parent_fingerprint"]
        params_key, _ = jax.random.split(seeds.key(self.config.seed))
        make, base, print_ = self._maker()
        layout = self.program.shardings.trainable
        return jax.jit(lambda k, b: self.partition.split(make(k, b))[0], out_shardings=layout)(params_key, base), print_

    def start_frozen(self) -> tuple[dict[str, Any], str]:
        """What `start` gives, but of the state only the frozen leaves, whole; those of the parent are not copied."""
        params_key, _ = jax.random.split(seeds.key(self.config.seed))
        make, base, print_ = self._maker()
        layout = self.program.shardings.frozen
        frozen = donating(lambda k, b: self.partition.split(make(k, b))[1], layout, (1,))(params_key, base)
        return frozen, print_

    def restored(self, resumed: Resumed) -> Any:
        """The state of a checkpoint, where it was restored to. Raises UserError where it needs a base that has changed."""
        like, saved, frozen = self.state_like, resumed.meta, {}
        if self.refers_to_base:
            frozen, print_ = self.start_frozen()
            if print_ != saved["base"]["fingerprint"]:
                raise UserError(f"{self.workdir}: its base {self.parent.name} changed since the run was started")
        flat = flatten(frozen) | flatten(resumed.params)
        pick = lambda form: unflatten({path: flat[path] for path in flatten(form)})  # noqa: E731
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
        return self.program.adopt(state)

    def _maker(self) -> tuple[Callable[[jax.Array, Any], dict[str, Any]], dict[str, Any], str]:
        """(function of (key, the parent's parameters) that gives the whole parameters of step 0, those parameters, their
        fingerprint); {} and "" without a parent."""
        if self.parent is None:
            return (lambda key, _: self.maker.init(key)), {}, ""
        base = self.base()
        print_ = restore.parameters_fingerprint(base)
        folder, into = self.init["adapter"], self.init["merge_into"]
        start = flatten(peft_adapter(folder, self.parent, "config.init.adapter", into).params) if folder else {}
        fresh, known, spec = self.init["fresh"], self.known_tokens, self.model.spec

        def make(key, base):
            plain = flatten(base)
            if self.new_rows:
                plain = flatten(
                    vocabulary.grow(
                        base, known, spec.vocab_size, self.new_rows, spec.init_std, jax.random.fold_in(key, 1)
                    )
                )
            if fresh:
                plain |= {p: a for p, a in flatten(self.plain_maker.init(key)).items() if matches(fresh, p)}
            whole = flatten(self.maker.init(key, unflatten(self.as_kept(plain))))
            whole |= {p: jnp.asarray(a, whole[p].dtype) for p, a in start.items()}
            return unflatten(whole)

        return make, base, print_

    def parameters_of(self, parent: restore.Parent, **model: Any) -> dict[str, Any]:
        """A parent's parameters as `config.init` takes them, in this run's layout; `model` as its own `parameters` has it."""
        taken = {name: self.init[name] for name in ("weights", "merge_into")}
        return parent.parameters(self.layout, self.config.model.param_dtype, wide=self.wide, **taken, **model)

    def as_kept(self, plain: Mapping[str, jax.Array], shapes: Mapping[str, Any] | None = None) -> dict[str, jax.Array]:
        """Parameters of a plain model (of `shapes`, else of this run's) by path, rounded to what frozen ones are kept in where
        they are that."""
        shapes = flatten(self.plain_shapes if shapes is None else shapes)
        return {p: plain[p].astype(jnp.float32 if p in self.wide else a.dtype) for p, a in shapes.items()}

    def base(self) -> dict[str, Any]:
        """The parent's parameters, checked against this model and finite: all but those that are made anew."""
        head = {name: self.config.as_dict()["model"][name] for name in specs.HEAD}
        have = flatten(self.parameters_of(self.parent, **head))
        fresh = self.init["fresh"]
        need = {p: a for p, a in flatten(self.plain_shapes).items() if not matches(fresh, p)}
        if self.new_rows:
            need |= {p: a for p, a in have.items() if p in vocabulary.AXES}
        differences = compare(unflatten(have), unflatten(need))
        if differences:
            raise UserError(f"config.init.from: {self.parent.name} does not fit this model:{listed(differences, 20)}")
        finite.refuse(have, f"config.init.from: {self.parent.name}", "\nnothing can be learned from them")
        return unflatten(have)

    def _refuse_frozen_new(self) -> None:
        """What is made anew has to train: random numbers would stay in the model, and no checkpoint of an adapter would
        hold them."""
        fresh = self.init["fresh"]
        frozen = {plain_path(f.source) for f in self.partition.leaves if not f.trains}
        made = [p for p in sorted(frozen) if matches(fresh, p) or (self.new_rows and p in vocabulary.AXES)]
        if made:
            field = "init.fresh" if matches(fresh, made[0]) else "tokenizer.add"
            rules = (*((path, 1.0) for path in made), *adapters.rates(self.config.tune, tuple(fresh)))
            raise UserError(
                f"config.{field}: these are made anew, but frozen:{listed(made)}\nlet them train: tune.rates={rules}"
            )

    def stored_params(self, state: states.TrainState) -> dict[str, Any]:
        """The leaves a checkpoint holds: all, or only what trains or was added where the rest is the parent's, unchanged."""
        frozen = {p: a for p, a in flatten(state.frozen).items() if is_added(p) or not self.refers_to_base}
        return unflatten({**flatten(state.trainable), **frozen})

    @property
    def refers_to_base(self) -> bool:
        return self.parent is not None and self.adapter is not None


def train(
    config: Mapping[str, Any],
    workdir: str | pathlib.Path,
    *,
    reporter: Reporter | None = None,
    max_seconds: float = 0.0,
) -> dict[str, Any]:
    """Runs, or continues, the run of `config` in `workdir`, and returns its summary (also written as summary.json).

    A finished run is not run again. Where there are several processes, all call this, in the same (shared) `workdir`, which
    is theirs alone meanwhile. SIGTERM makes it save and return; a second one ends the process.

    Args:
      config: the settings, as `ptft_jax.config.default()` gives them, or a nested dict of those that differ.
      workdir: the folder of the run.
      reporter: where messages, tables and bars go; by default standard error.
      max_seconds: save and return after so many seconds; 0 = no limit.

    Returns:
      The summary: "finished", "reason", "step", "best_step", the metrics "before" and "after", and more. Of a run that was
      stopped early "finished" is False, and the same call continues it.

    Raises:
      UserError: anything wrong with what was asked for, or another launch is running in the workdir.
    """
    reporter = reporter or Reporter()
    place = places.local(workdir, f"--workdir={workdir}")
    done = processes.shared(finished(place))
    with contextlib.nullcontext() if done is not None else lease.owned(place, reporter.say):
        run = Run(config, place, reporter)
        settings = run.config.as_dict()
        evaluated = {f"batches of {name}": len(b) for name, b in (run.eval_batches | run.test_batches).items()}
        same = {f"config.{name}": configs.get(settings, name) for name, _ in configs.fields()}
        # What is the latest of a run that goes on may be another a moment later.
        same |= {"step of config.init.from": [s.step for s in (run.continued, run.parent) if s is not None]}
        processes.check_same({**same, "training data": run.data.key, "classes": run.classes, **evaluated})
        if done is not None:
            reporter.say(f"{run.workdir}: finished before ({done['reason']} at step {done['step']})")
            return done
        return Execution(run, max_seconds).carry_out()
