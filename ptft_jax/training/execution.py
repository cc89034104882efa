"""Carrying out an assembled run: resume or start, loop, go back to the best state, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import jax

from ptft_jax import environment
from ptft_jax.data import pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.parallel import processes, sharding
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.reporting.metrics import METRICS, MetricsWriter, read, write_bytes, write_json
from ptft_jax.reporting.progress import Reporter
from ptft_jax.training import checkpoint, measuring, restore
from ptft_jax.training.loop import SOURCE, Loop


def finished(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = pathlib.Path(workdir) / "summary.json"
    return json.loads(path.read_bytes()) if path.is_file() else None


class Execution:
    """One launch of an assembled run (`ptft_jax.run.Run`)."""

    def __init__(self, run: Any, max_seconds: float):
        self.run = run
        self.plan = dataclasses.replace(run.plan, max_seconds=max_seconds)
        self._rows = None  # a batch of the loop's

    def carry_out(self) -> dict[str, Any]:
        run = self.run
        run.workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = checkpoint.Checkpoints(run.workdir, mode=run.selection.mode, **run.checkpoint_options)
        state, step, meta = self._resume_or_start(checkpoints)
        self._announce(step)
        writer = MetricsWriter(
            run.workdir,
            tensorboard=run.tensorboard,
            step=step or -1,  # what is known of the start is measured again, where a run stopped before its first step
            silent=not processes.main(),
        )
        try:
            if not meta["resumed"] and run.parent is not None:
                parents = measuring.of_parent(run)
                meta["before"] = self._test(state) if parents is None else parents
                if parents is not None and SOURCE in parents:
                    run.selection.source_before = parents[SOURCE]
            loop = self._loop(checkpoints, writer, meta)
            with _bars(run.reporter):
                state, reason = loop.run(state, step)
            if reason in ("sigterm", "max_seconds"):
                at = int(run.program.whole(state).step)
                run.reporter.say(f"stopped by {reason} at step {at}; the same command continues from there")
                return {"finished": False, "reason": reason, "step": at, "workdir": str(run.workdir)}
            summary = self._finish(state, loop, writer, meta, reason, checkpoints)
        finally:
            writer.close()
        checkpoints.close()
        if processes.main():
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
            if processes.main():
                self._record(print_)
            return state, 0, meta
        params, training, others, saved, messages = resumed
        for message in messages:
            run.reporter.say(message)
        if saved["data"] != run.data.key:
            raise UserError(f"{run.workdir}: the training data are not those the run was started with (files changed?)")
        frozen = {}
        if run.refers_to_base:
            state, print_ = run.start()
            if print_ != saved["base"]["fingerprint"]:
                raise UserError(f"{run.workdir}: its base {run.parent.name} changed since the run was started")
            frozen = run.program.whole(state).frozen
        flat = flatten(frozen) | flatten(params)
        pick = lambda form: unflatten({path: flat[path] for path in flatten(form)})  # noqa: E731
        state = dataclasses.replace(
            like,
            step=jax.numpy.asarray(saved["step"], jax.numpy.int32),
            trainable=pick(like.trainable),
            frozen=pick(like.frozen),
            optimizer=training["optimizer"],
            rng=training["rng"],
            anchor=training.get("anchor", {}),
            **others,
            halted=jax.numpy.zeros((), bool),
        )
        before_first = {"best": [None, -1, 0], "over_budget": False}  # the start is measured again, and counts once
        run.selection.restore(saved if saved["step"] else {**saved, **before_first})
        run.reporter.say(f"{run.workdir}: continuing from step {saved['step']}")
        if processes.main():  # may carry the run out in another way than before
            write_json(run.workdir / "config.json", run.config.as_dict())
        meta = {"resumed": True, **{k: saved[k] for k in ("seconds", "before", "parent_fingerprint")}}
        return run.program.create(lambda s: s, state), saved["step"], meta

    def _record(self, print_: str) -> None:
        """What is known before the first step. config.json comes last: it marks the folder as a run's."""
        run, files = self.run, self.run.tokenizer.files()
        if (run.workdir / "config.json").is_file():  # of a run that never began
            for left in tok.stored(run.workdir) - set(files):
                (run.workdir / left).unlink()
        for name, data in files.items():
            write_bytes(run.workdir / name, data)
        write_json(run.workdir / "lineage.json", run.parent.lineage(print_) if run.parent else [])
        write_json(run.workdir / "environment.json", {"run_id": uuid.uuid4().hex, **environment.describe()})
        write_json(run.workdir / "partition.json", run.partition.table())
        write_json(run.workdir / "data.json", run.data.table)
        write_json(run.workdir / "config.json", run.config.as_dict())

    def _announce(self, step: int) -> None:
        run = self.run
        rows = [{k: v for k, v in row.items() if k != "paths"} for row in run.partition.table()]
        run.reporter.table(f"{run.workdir}: parameters", rows)
        run.reporter.say("\n".join([f"{run.workdir}: training data", *pipeline.announced(run.data.table)]))
        run.reporter.table("", pipeline.shown(run.data.table))
        if len(run.phases) > 1:
            trained = [run.partition.count(True, phase=k) for k in range(len(run.phases))]
            lines = [
                f"  from step {phase.start}: {phase.recipe}, {count:,} parameters, {phase.factor:g} x the rate"
                for phase, count in zip(run.phases, trained)
            ]
            run.reporter.say("\n".join([f"{run.workdir}: what trains when", *lines]))
        shardings = run.program.shardings
        per_device = sharding.bytes_per_device(run.state_like, shardings)
        shape = " x ".join(f"{k}={v}" for k, v in run.mesh.shape.items())
        run.reporter.say(
            f"mesh {shape} ({run.mesh.devices.flat[0].platform}), {per_device / 2**20:.1f} MiB of state a device; "
            f"{run.data.tokens:,} training tokens, vocabulary {run.tokenizer.vocab_size}; step {step} of {run.plan.steps}"
        )

    def _loop(self, checkpoints, writer, meta) -> Loop:
        run = self.run
        base = None
        if run.refers_to_base:
            print_ = meta["parent_fingerprint"]
            base = restore.base_reference(run.parent, run.workdir, print_, run.init["weights"], run.config)
        saved = {
            "data": run.data.key,
            "vocab_size": run.model.spec.vocab_size,
            "base": base,
            "before": meta["before"],
            "parent_fingerprint": meta["parent_fingerprint"],
        }
        return Loop(
            name=run.workdir.name,
            workdir=run.workdir,
            program=run.program,
            batches=self._batches,
            eval_sets=self._eval_sets(run.eval_batches),
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

    def _batches(self, start: int) -> Iterator[Any]:
        for rows in self.run.batches(start=start):
            self._rows = rows
            yield rows

    def _eval_sets(self, batches: dict[str, list]) -> list[EvalSet]:
        lengths = tok.byte_lengths(self.run.tokenizer) if self.run.objective.chained else None
        return [EvalSet(name, rows, self.run.program, lengths) for name, rows in batches.items()]

    def _test(self, state) -> dict[str, float]:
        values: dict[str, float] = {}
        for eval_set in self._eval_sets(self.run.test_batches):
            values |= eval_set.run(state)
        return values

    def _finish(self, state, loop, writer, meta, reason, checkpoints) -> dict[str, Any]:
        """Goes to the best state, measures it on the test split, samples, and sums up."""
        run = self.run
        step = int(run.program.whole(state).step)
        optimizer_bytes = sum(a.nbytes for a in jax.tree.leaves(run.program.whole(state).optimizer))
        cost = measuring.step_cost(run, state, self._rows)
        best = run.selection.best_step
        if best not in (step, -1):
            checkpoints.wait()
            state = self._at(state, best)
        test = self._test(state)
        if test:
            writer.write(best, "test", test)
        for row in run.sampler(run.program.whole(state)):
            writer.sample(best, {**row, "selected": True})
        rows = processes.shared([r for r in read(run.workdir / METRICS) if r["kind"] == "eval"])
        at = {r["step"]: {k: v for k, v in r.items() if k not in ("step", "kind")} for r in rows}
        tokens_per_step = run.config.data.batch_size * run.config.data.length
        positions = run.config.data.length + run.model.virtual_tokens
        flops = 3 * run.model.spec.flops_per_token(positions) * run.config.data.batch_size * positions
        before, after = {**at.get(0, {}), **meta["before"]}, {**at.get(best, {}), **test}
        return {
            "finished": True,
            "reason": reason,
            "workdir": str(run.workdir),
            "step": step,
            "best_step": best,
            "selected": {"metric": run.selection.metric, "value": run.selection.best},
            "before": before,
            "after": after,
            "transfer": measuring.gains(run, before, after),
            "drift": measuring.drift(run, state, meta["parent_fingerprint"]),
            "cost": cost,
            "last": at.get(step, {}),
            "parameters": {"trainable": run.partition.count(True), "frozen": run.partition.count(False)},
            "trainable_bytes": sum(leaf.bytes for leaf in run.partition.leaves if leaf.trains),
            "optimizer_bytes": int(optimizer_bytes),
            "train_tokens": run.data.tokens,
            "drawn": run.data.drawn(step),
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
