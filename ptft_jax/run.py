"""Assembles a run from a config and carries it out. The only file that knows all the parts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
import uuid
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ptft_jax import adapters, config as configs, environment, objectives
from ptft_jax.data import batches, sources, tokens
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError, listed
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.evaluation.samples import continue_texts
from ptft_jax.model.decode import Sampling
from ptft_jax.model.spec import ModelSpec
from ptft_jax.model.transformer import Transformer
from ptft_jax.optim import optimizers, schedules
from ptft_jax.parallel import compile as compiling
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import sharding
from ptft_jax.params.partition import Partition, join
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.reporting.metrics import METRICS, MetricsWriter, read, write_json, write_text
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training import checkpoint, restore
from ptft_jax.training import state as states
from ptft_jax.training.loop import Loop, Schedule, Selection
from ptft_jax.training.step import Step

# What makes a model the model it is: a child has these from its parent. The rest of `model` is how it is run.
STRUCTURE = (
    "layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "max_length", "activation", "gated", "norm",
    "norm_eps", "bias", "positions", "rope_theta", "tied",
)  # fmt: skip


def model_spec(config: configs.Section, vocab_size: int) -> ModelSpec:
    """The model's description, from `config.model`; reads rope_theta only where positions are rotary."""
    names = [f.name for f in dataclasses.fields(ModelSpec) if f.name not in ("vocab_size", "rope_theta")]
    values = {name: config.model[name] for name in names}
    if config.model.positions == "rotary":
        values["rope_theta"] = config.model.rope_theta
    return ModelSpec(vocab_size=vocab_size, **values)


def resolve(config: Mapping[str, Any]) -> tuple[configs.Section, restore.Source | None]:
    """The checked config with the parent's model structure filled in, and the parent.

    Raises:
      UserError: see `config.check`; also a structural field that was set to something else than the parent's.
    """
    section = configs.check(config)
    if not section.init.from_:
        return section, None
    parent = restore.find(section.init.from_)
    values, theirs = section.as_dict(), parent.config.as_dict()["model"]
    defaults = dict(configs.fields())
    for name in STRUCTURE:
        mine = values["model"][name]
        if mine != theirs[name] and mine != defaults[f"model.{name}"].default:
            raise UserError(f"config.model.{name} = {mine!r}, but the parent {parent.workdir} has {theirs[name]!r}")
        values["model"][name] = theirs[name]
    section = configs.check(values)
    assert section.init.from_, "read again: this is the section whose reads are counted"
    return section, parent


def device_rows(rows: int) -> int:
    """`rows` rounded up to a multiple of the devices."""
    return -(-rows // jax.device_count()) * jax.device_count()


class Run:
    """One run, assembled: everything but its arrays exists, and every setting has been read."""

    def __init__(self, config: Mapping[str, Any], workdir: pathlib.Path, reporter: Reporter):
        self.config, self.parent = resolve(config)
        c = self.config
        self.workdir, self.reporter = pathlib.Path(workdir), reporter
        self._refuse_other_run()
        self.mesh = meshes.make(c.parallel.replica, c.parallel.fsdp)
        self._check_rows()
        self._load_data()
        self._build_model()
        self._build_step()
        self.batches = functools.partial(
            batches.training,
            self.train_stream,
            length=c.data.length,
            batch_size=c.data.batch_size,
            seed=c.seed,
            prefetch=c.data.prefetch,
        )
        self.selection = Selection(**c.select.read_all())
        self.checkpoint_options = {"keep_latest": c.checkpoint.keep_latest, "keep_best": c.checkpoint.keep_best}
        self.sampler = self._build_sampler()
        self.plan = Schedule(
            steps=c.training.steps,
            eval_every=c.eval.every,
            save_every=c.checkpoint.every,
            sample_every=c.samples.every if c.samples.prompts else 0,
            log_every=c.log.every,
        )
        self.tensorboard = c.log.tensorboard
        self.weights = c.init.weights if self.parent else "auto"
        c.refuse_unread()

    # Assembly

    def _refuse_other_run(self) -> None:
        path = self.workdir / "config.json"
        if not path.exists():
            return
        before, now = restore.read_config(self.workdir).as_dict(), self.config.as_dict()
        changed = [
            f"{name}: {configs.get(before, name)!r} -> {configs.get(now, name)!r}"
            for name, _ in configs.fields()
            if configs.get(before, name) != configs.get(now, name)
        ]
        if changed:
            raise UserError(
                f"{self.workdir} holds a run with another config:{listed(changed, 20)}\n"
                "Choose another --workdir (init.from can start from this one), or give the same config to continue it"
            )

    def _check_rows(self) -> None:
        c, devices = self.config, self.mesh.size
        per_step = c.data.batch_size // c.training.micro_batches
        rows = [("data.batch_size / training.micro_batches", per_step), ("eval.batch_size", c.eval.batch_size or c.data.batch_size)]
        for name, value in rows:
            if value % devices:
                raise UserError(f"config.{name} = {value}: expected a multiple of the {devices} devices")

    def _load_data(self) -> None:
        c = self.config
        train = sources.load(c.data, "train")
        parent_dir = self.parent.workdir if self.parent else None
        self.tokenizer = tok.build(c.tokenizer, train.texts, parent_dir)
        self.train_stream = tokens.limited(tokens.encode(train, self.tokenizer), c.data.train_tokens)
        self.eval_batches = {"validation": self._eval_batches(c.data, "validation")}
        self.test_batches = {"test": self._eval_batches(c.data, "test")} if c.eval.test else {}
        if self.parent and c.eval.parent_data:
            data = self.parent.config.data
            self.eval_batches["source"] = self._eval_batches(data, "validation")
            if c.eval.test:
                self.test_batches["source_test"] = self._eval_batches(data, "test")
        # Fail on too little data now, not after compiling.
        next(batches.training(self.train_stream, length=c.data.length, batch_size=c.data.batch_size, seed=0, start=0, prefetch=0))

    def _eval_batches(self, data: configs.Section, split: str) -> list[batches.Rows]:
        c = self.config
        stream = tokens.encode(sources.load(data, split), self.tokenizer)
        rows = c.eval.batch_size or c.data.batch_size
        return batches.evaluation(stream, length=c.data.length, batch_size=rows, tokens=c.eval.tokens)

    def _build_model(self) -> None:
        c = self.config
        rows = sharding.Rows(self.mesh) if c.parallel.compile == "jit" else None
        self.adapter = adapters.build(c.tune)
        spec = model_spec(c, self.tokenizer.vocab_size)
        plain = Transformer(spec, None, rows)
        if self.adapter is not None:
            self.adapter.check(plain.shapes())
        self.model = Transformer(spec, self.adapter, rows)
        self.shapes = self.model.shapes()
        self.plain_shapes = plain.shapes()
        self.partition = Partition.of(self.shapes, adapters.rates(c.tune))
        rules = tuple(tuple(rule) for rule in c.parallel.rules)
        self.by_path = sharding.of_params(self.shapes, rules, self.mesh)

    def _build_step(self) -> None:
        c = self.config
        self.learning_rate = schedules.from_config(c.optimizer, c.training.steps)
        self.optimizer = optimizers.build(c.optimizer, self.learning_rate, self.partition)
        self.step = Step(
            self.model,
            objectives.build(c.objective),
            self.partition,
            self.optimizer,
            c.training.micro_batches,
            c.training.ema_decay,
        )
        self.make_state = functools.partial(states.create, optimizer=self.optimizer, ema=bool(c.training.ema_decay))
        split = jax.eval_shape(self.partition.split, self.shapes)
        like = jax.eval_shape(self.make_state, *split, rng=jax.random.key(0))
        shardings = sharding.of_state(like, self.by_path, self.mesh)
        self.program = compiling.PROGRAMS[c.parallel.compile](self.step, self.mesh, shardings)
        self.state_like = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), like, shardings)

    def _build_sampler(self):
        s = self.config.samples
        if not s.prompts:
            return lambda state: []
        sampling = Sampling(temperature=s.temperature, top_p=s.top_p) if s.temperature else Sampling(temperature=0.0)
        options = {"max_new_tokens": s.max_new_tokens, "sampling": sampling, "seed": self.config.seed}
        model = dataclasses.replace(self.model, constrain=None)

        def sample(state: states.TrainState) -> list[dict[str, Any]]:
            params = self.partition.merge(state.ema or state.trainable, state.frozen)
            rows = continue_texts(model, params, self.tokenizer, s.prompts, **options)
            return [{"prompt": r.prompt, "text": r.text, "reason": r.reason} for r in rows]

        return sample

    # Arrays

    def _layout(self, stored: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        found = sharding.of_stored(stored, shape, self.by_path, self.mesh)
        return found or jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    def start(self) -> tuple[Any, str]:
        """The state of step 0, sharded from birth, and the fingerprint of the parent's parameters."""
        key = jax.random.key(self.config.seed)
        params_key, run_key = jax.random.split(key)
        if self.parent is None:
            return self.program.create(lambda k, r: self.make_state(*self.partition.split(self.model.init(k)), rng=r), params_key, run_key), ""
        base = restore.parameters(self.parent, self._layout, merged=True, weights=self.weights)
        differences = checkpoint.compare(base, self.plain_shapes)
        if differences:
            raise UserError(f"config.init.from: {self.parent.workdir}@{self.parent.step} does not fit this model:{listed(differences, 20)}")
        print_ = restore.parameters_fingerprint(base)

        def make(key, base, rng):
            fresh = flatten(self.model.init(key)) if self.adapter is not None else {}
            dtypes = flatten(self.shapes)
            whole = {p: a.astype(dtypes[p].dtype) for p, a in {**fresh, **flatten(base)}.items()}
            return self.make_state(*self.partition.split(unflatten(whole)), rng=rng)

        return self.program.create(make, params_key, base, run_key), print_

    def stored_params(self, state: states.TrainState) -> dict[str, Any]:
        """The leaves a checkpoint holds: all, or only what trains where the rest is the parent's, unchanged."""
        frozen = {} if self.refers_to_base else flatten(state.frozen)
        return unflatten({**flatten(state.trainable), **frozen})

    @property
    def refers_to_base(self) -> bool:
        return self.parent is not None and self.adapter is not None

    def whole_params(self, state: states.TrainState) -> dict[str, Any]:
        """The parameters in whole form, averaged where an average is kept."""
        return join(unflatten({**flatten(state.ema or state.trainable), **flatten(state.frozen)}))


def train(
    config: Mapping[str, Any], workdir: str | pathlib.Path, *, reporter: Reporter | None = None, max_seconds: float = 0.0
) -> dict[str, Any]:
    """Runs, or continues, the run of `config` in `workdir`, and returns its summary (also written as summary.json).

    A finished run is not run again. Raises UserError for anything wrong with what was asked for.
    """
    reporter = reporter or Reporter()
    run = Run(config, pathlib.Path(workdir), reporter)
    done = finished(run.workdir)
    if done is not None:
        reporter.say(f"{run.workdir}: finished before ({done['reason']} at step {done['step']})")
        return done
    return _Execution(run, max_seconds).carry_out()


def finished(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = pathlib.Path(workdir) / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


class _Execution:
    """Carrying out one launch of a run."""

    def __init__(self, run: Run, max_seconds: float):
        self.run = run
        self.plan = dataclasses.replace(run.plan, max_seconds=max_seconds)

    def carry_out(self) -> dict[str, Any]:
        run = self.run
        run.workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = checkpoint.Checkpoints(run.workdir, mode=run.selection.mode, **run.checkpoint_options)
        started = time.monotonic()
        state, step, meta = self._resume_or_start(checkpoints)
        self._announce(step)
        writer = MetricsWriter(run.workdir, tensorboard=run.tensorboard, step=step if meta["resumed"] else -1)
        try:
            if not meta["resumed"] and run.parent is not None:
                meta["before"] = self._test(state)
            loop = self._loop(checkpoints, writer, meta)
            with _bars(run.reporter):
                state, reason = loop.run(state, step)
            if reason in ("sigterm", "max_seconds"):
                at = int(run.program.whole(state).step)
                run.reporter.say(f"stopped by {reason} at step {at}; the same command continues from there")
                return {"finished": False, "reason": reason, "step": at, "workdir": str(run.workdir)}
            summary = self._finish(state, loop, writer, meta, reason, checkpoints, time.monotonic() - started)
        finally:
            writer.close()
        checkpoints.close()
        write_json(run.workdir / "summary.json", summary)
        return summary

    def _resume_or_start(self, checkpoints: checkpoint.Checkpoints):
        run = self.run
        like = run.state_like
        params_like = run.stored_params(like)
        resumed = checkpoints.resume(like, params_like)
        if resumed is None:
            state, print_ = run.start()
            meta = {"resumed": False, "seconds": 0.0, "before": {}, "parent_fingerprint": print_}
            self._record(print_)
            return state, 0, meta
        params, training, ema, saved, messages = resumed
        for message in messages:
            run.reporter.say(message)
        if saved["data"] != run.train_stream.key:
            raise UserError(f"{run.workdir}: the training data are not those the run was started with (files changed?)")
        frozen = {}
        if run.refers_to_base:
            state, print_ = run.start()
            if print_ != saved["base"]["fingerprint"]:
                raise UserError(f"{run.workdir}: its base {run.parent.workdir} changed since the run was started")
            frozen = run.program.whole(state).frozen
        flat = flatten(params) | flatten(frozen)
        pick = lambda form: unflatten({path: flat[path] for path in flatten(form)})  # noqa: E731
        state = dataclasses.replace(
            like,
            step=jax.numpy.asarray(saved["step"], jax.numpy.int32),
            trainable=pick(like.trainable),
            frozen=pick(like.frozen),
            optimizer=training["optimizer"],
            rng=training["rng"],
            ema=ema,
            halted=jax.numpy.zeros((), bool),
        )
        run.selection.best, run.selection.best_step, run.selection.stale = saved["best"]
        run.reporter.say(f"{run.workdir}: continuing from step {saved['step']}")
        meta = {"resumed": True, **{k: saved[k] for k in ("seconds", "before", "parent_fingerprint")}}
        return run.program.create(lambda s: s, state), saved["step"], meta

    def _record(self, print_: str) -> None:
        """What is known before the first step. config.json comes last: it marks the folder as a run's."""
        run = self.run
        write_text(run.workdir / tok.FILE, run.tokenizer.to_json())
        write_json(run.workdir / "lineage.json", restore.lineage(run.parent, print_))
        write_json(run.workdir / "environment.json", {"run_id": uuid.uuid4().hex, **environment.describe()})
        write_json(run.workdir / "partition.json", run.partition.table())
        write_json(run.workdir / "config.json", run.config.as_dict())

    def _announce(self, step: int) -> None:
        run = self.run
        rows = [{k: v for k, v in row.items() if k != "paths"} for row in run.partition.table()]
        run.reporter.table(f"{run.workdir}: parameters", rows)
        shardings = run.program.shardings
        per_device = sharding.bytes_per_device(run.state_like, shardings)
        shape = " x ".join(f"{k}={v}" for k, v in run.mesh.shape.items())
        run.reporter.say(
            f"mesh {shape} ({run.mesh.devices.flat[0].platform}), {per_device / 2**20:.1f} MiB of state a device; "
            f"{len(run.train_stream):,} training tokens, vocabulary {run.tokenizer.vocab_size}; step {step} of {run.plan.steps}"
        )

    def _loop(self, checkpoints, writer, meta) -> Loop:
        run = self.run
        lengths = tok.byte_lengths(run.tokenizer)
        eval_sets = [EvalSet(name, rows, run.program, lengths) for name, rows in run.eval_batches.items()]
        base = None
        if run.refers_to_base:
            base = restore.base_reference(run.parent, run.workdir, meta["parent_fingerprint"], run.weights)
        saved = {"data": run.train_stream.key, "base": base, "before": meta["before"], "parent_fingerprint": meta["parent_fingerprint"]}
        return Loop(
            name=run.workdir.name,
            workdir=run.workdir,
            program=run.program,
            batches=lambda start: run.batches(start=start),
            eval_sets=eval_sets,
            selection=run.selection,
            schedule=self.plan,
            checkpoints=checkpoints,
            stored_params=run.stored_params,
            meta=saved,
            sample=run.sampler,
            learning_rate=run.learning_rate,
            writer=writer,
            reporter=run.reporter,
            seconds_before=meta["seconds"],
        )

    def _test(self, state) -> dict[str, float]:
        run = self.run
        lengths = tok.byte_lengths(run.tokenizer)
        values: dict[str, float] = {}
        for name, rows in run.test_batches.items():
            values |= EvalSet(name, rows, run.program, lengths).run(state)
        return values

    def _finish(self, state, loop, writer, meta, reason, checkpoints, launch_seconds) -> dict[str, Any]:
        """Goes to the best state, measures it on the test split, samples, and sums up."""
        run = self.run
        step = int(run.program.whole(state).step)
        optimizer_bytes = sum(a.nbytes for a in jax.tree.leaves(run.program.whole(state).optimizer))
        best = run.selection.best_step
        if best not in (step, -1):
            checkpoints.wait()
            state = self._at(state, best)
        test = self._test(state)
        if test:
            writer.write(best, "test", test)
        for row in run.sampler(run.program.whole(state)):
            writer.sample(best, {**row, "selected": True})
        rows = [r for r in read(run.workdir / METRICS) if r["kind"] == "eval"]
        at = {r["step"]: {k: v for k, v in r.items() if k not in ("step", "kind")} for r in rows}
        tokens_per_step = run.config.data.batch_size * run.config.data.length
        flops = 3 * run.model.spec.flops_per_token(run.config.data.length) * tokens_per_step
        return {
            "finished": True,
            "reason": reason,
            "workdir": str(run.workdir),
            "step": step,
            "best_step": best,
            "selected": {"metric": run.selection.metric, "value": run.selection.best},
            "before": {**at.get(0, {}), **meta["before"]},
            "after": {**at.get(best, {}), **test},
            "last": at.get(step, {}),
            "parameters": {"trainable": run.partition.count(True), "frozen": run.partition.count(False)},
            "trainable_bytes": sum(leaf.bytes for leaf in run.partition.leaves if leaf.trains),
            "optimizer_bytes": int(optimizer_bytes),
            "train_tokens": len(run.train_stream),
            "tokens_seen": step * tokens_per_step,
            "tokens_to_best": best * tokens_per_step,
            "model_flops": step * flops,
            "seconds": loop.seconds,
            "step_seconds": loop.step_seconds,
            "seed": run.config.seed,
            "parent_fingerprint": meta["parent_fingerprint"],
        }

    def _at(self, state, step: int):
        """The state with the parameters of a saved step of this run."""
        run = self.run
        meta = checkpoint.read_meta(run.workdir, step)
        like = run.state_like
        params = flatten(checkpoint.read(run.workdir, step, "params", run.stored_params(like), meta))
        ema = checkpoint.read(run.workdir, step, "ema", like.ema, meta) if like.ema else {}
        whole = run.program.whole(state)
        trainable = unflatten({p: params[p] for p in flatten(like.trainable)})
        whole = dataclasses.replace(whole, trainable=trainable, ema=ema)
        return run.program.create(lambda s: s, whole)


def _bars(reporter: Reporter):
    """The reporter as a context, entered only by the outermost user (an experiment keeps it open over many runs)."""
    return contextlib.nullcontext() if reporter.active else reporter


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A run's model, ready to evaluate or generate with."""

    source: restore.Source
    model: Transformer
    params: dict[str, Any]
    tokenizer: tok.Tokenizer


def load(reference: str, *, field: str = "run", weights: str = "auto") -> Loaded:
    """The model of WORKDIR[@STEP|@best|@latest], adapters merged. Raises UserError."""
    source = restore.find(reference, field)
    tokenizer = tok.from_file(source.workdir)
    model = Transformer(model_spec(source.config, tokenizer.vocab_size))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = restore.parameters(source, lambda path, shape: device, merged=True, weights=weights)
    return Loaded(source, model, params, tokenizer)
