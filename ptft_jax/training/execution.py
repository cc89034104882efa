"""Carrying out an assembled run: resume or start, loop, go back to the best state, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ptft_jax import environment
from ptft_jax.data import cache, overview, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.rows import Rows
from ptft_jax.evaluation import answers, evaluate
from ptft_jax.evaluation.behavior import BehaviorSet
from ptft_jax.evaluation.evaluate import EvalSet
from ptft_jax.evaluation.gallery import Gallery
from ptft_jax.evaluation.names import SOURCE
from ptft_jax.objectives import counts
from ptft_jax.parallel import leaves, processes, sharding
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.reporting.clock import Clock
from ptft_jax.reporting.metrics import MetricsWriter
from ptft_jax.reporting.progress import Reporter
from ptft_jax.reporting.trackers.base import FAILED, FINISHED
from ptft_jax.runs import source as restore
from ptft_jax.runs.checkpoint import Damaged, best_steps, check_files, has_record, read, read_meta, together
from ptft_jax.runs.files import write_bytes, write_json
from ptft_jax.runs.saving import Checkpoints, read_state
from ptft_jax.runs.tiers import Local, Tiers
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import outcome, profile, reference, scorers, verdicts
from ptft_jax.training.hooks import Hook, Moment
from ptft_jax.training.loop import Loop
from ptft_jax.training.termination import Terminated, Termination
from ptft_jax.training.watch import Watch

if TYPE_CHECKING:
    from ptft_jax.training.assembly import Run


class Execution:
    """One launch of an assembled run (`ptft_jax.training.assembly.Run`)."""

    def __init__(
        self,
        run: Run,
        max_seconds: float,
        clock: Clock,
        hooks: Sequence[Hook] = (),
        traced: tuple[int, int] | None = None,
        hung_seconds: float = 0.0,
        settled: Callable[[], None] = lambda: None,
    ):
        """`settled`: as of `ptft_jax.runs.saving.Checkpoints`; `traced`: record the steps after the first number up to the second (`ptft_jax.training.profile`); `hung_seconds`: as of
        `ptft_jax.training.watch.Watch`."""
        self.run, self.clock, self.hooks, self.traced, self.settled = run, clock, hooks, traced, settled
        self.watch = Watch(run.workdir, hung_seconds, run.reporter.say)
        self.plan = dataclasses.replace(run.plan, max_seconds=max_seconds)

    def carry_out(self) -> dict[str, Any]:
        run, at, began = self.run, self.run.first_step, self.run.first_step
        run.workdir.mkdir(parents=True, exist_ok=True)
        with (
            Termination() as termination,
            Checkpoints(
                run.workdir, mode=run.selection.mode, settled=self.settled, **run.checkpoint_options
            ) as checkpoints,
            Tiers(run.local, run.workdir, run.selection.mode, checkpoints) as tiers,
        ):
            try:
                with self.clock("start"):
                    state, at, meta = self._resume_or_start(checkpoints, tiers, termination.checking())
                began = at
                if at < self.plan.steps:
                    run.trainer.program.ahead(run.trainer.state_like, run.forms, at)
                self._announce(at)
                with self._writer(at, meta) as writer:
                    loop = self._loop(checkpoints, tiers.local, writer, meta, termination)
                    if not meta["resumed"]:
                        with self.clock("evaluation"):
                            self._measure_start(state, meta, loop)
                    with _bars(run.reporter), self._traced(loop):
                        state, reason = loop.run(state, at)
                    at = int(run.trainer.program.whole(state).step)
                    if reason not in ("hook", "sigterm", "max_seconds"):
                        summary = self._finish(state, loop, meta, reason)
                        checkpoints.close()
                        if processes.main():
                            write_json(Workdir(run.workdir).summary, summary)
                        writer.status = FINISHED
                        tiers.finished = True
                        return summary
            except Terminated:
                reason = "sigterm"
        run.reporter.say(f"stopped by {reason} at step {at}; the same command continues from there")
        if reason == "max_seconds" and at == began:
            run.reporter.say(f"no step was made: max_seconds = {self.plan.max_seconds:g} is less than the start takes")
        return {"finished": False, "reason": reason, "step": at, "workdir": str(run.workdir)}

    def _traced(self, loop: Loop) -> contextlib.AbstractContextManager[object]:
        """A context in which the loop records what it is asked to."""
        if self.traced is None:
            return contextlib.nullcontext()
        trace = profile.Trace(*self.traced, self.run.workdir, self.run.reporter.say)
        loop.hooks = trace.around(loop.hooks)
        return trace

    @contextlib.contextmanager
    def _writer(self, at: int, meta: Mapping[str, Any]) -> Iterator[MetricsWriter]:
        """What the run's metrics go to, closed with how the launch ended."""
        run, main = self.run, processes.main()
        writer = MetricsWriter(
            run.workdir,
            tensorboard=run.tensorboard,
            step=at if meta["resumed"] else -1,
            pending=meta["pending"],
            silent=not main,
            trackers=run.trackers,
            config=run.config.as_dict(),
            run_id=Workdir(run.workdir).run_id if main else "",
            say=run.reporter.say,
        )
        try:
            yield writer
        except Terminated:
            raise
        except BaseException:
            writer.status = FAILED
            raise
        finally:
            writer.close()

    def _measure_start(self, state: Any, meta: dict[str, Any], loop: Loop) -> None:
        """Puts into the meta what the run's gain and forgetting count from."""
        run = self.run
        if run.parent is not None:
            parents = (
                None
                if run.continued
                else outcome.of_parent(
                    run.start, run.workdir, run.eval_batches | run.test_batches, run.measuring, loop.check
                )
            )
            if parents is None or run.trainer.objective.needs_reference:
                meta["before"].update(self._test(state, loop.check)[0])
            meta["before"].update(parents or {})
            if parents is not None and SOURCE in parents:
                run.selection.source_before = parents[SOURCE]

    def _resume_or_start(
        self, checkpoints: Checkpoints, tiers: Tiers, check: Callable[[], None]
    ) -> tuple[Any, int, dict[str, Any]]:
        """(state, its step, what is known of the run until then). Raises Terminated where `check` does."""
        run = self.run
        like = run.trainer.state_like
        resumed = tiers.resume(like, run.trainer.stored_params(like))
        if resumed is None:
            run.ask_teacher(check)
            state, fingerprint = (
                self._went_on(run.continued) if run.continued else run.start.state(run.importance, check)
            )
            run.precompute(fingerprint, lambda: reference.whole(run.trainer, state), check)
            if processes.main():
                self._record(fingerprint)
            tiers.open()
            meta: dict[str, Any] = {
                "resumed": False,
                "pending": True,
                "step_metrics": {},
                "before": {},
                "parent_fingerprint": fingerprint,
            }
            return state, run.first_step, meta
        for message in resumed.messages:
            run.reporter.say(message)
        saved = resumed.meta
        pipeline.refuse_other(saved["data"], run.data.key, run.workdir)
        run.ask_teacher(check, saved.get("reference", ""))
        state = run.start.restored(resumed, run.workdir)
        began = saved["parent_fingerprint"]
        run.precompute(began, lambda: reference.begun(run.trainer, run.start, began), check, saved.get("reference", ""))
        restore.refuse_changed(run.workdir, saved, run.recorded)
        run.selection.restore(saved)
        self._check_best(checkpoints)
        run.reporter.say(f"{run.workdir}: continuing from step {saved['step']}")
        if processes.main():  # may carry the run out in another way than before
            write_json(Workdir(run.workdir).config, run.recorded.as_dict())
            self._put_back(saved.get("tokenizer", {}))
        self.clock.continues(saved.get("seconds_by", {"other": saved["seconds"]}))
        meta = {"resumed": True, **{k: saved.get(k, v) for k, v in (("pending", False), ("step_metrics", {}))}}
        return state, saved["step"], meta | {k: saved[k] for k in ("before", "parent_fingerprint")}

    def _put_back(self, digests: Mapping[str, str]) -> None:
        """Writes the tokenizer's files (name -> digest) again where they were lost, so that the run can be read when it has ended."""
        for name, data in self.run.tokenizer.files().items():
            path = self.run.workdir / name
            if cache.digest(data) == digests.get(name) and not (path.is_file() and path.read_bytes() == data):
                write_bytes(path, data)
                self.run.reporter.say(f"{path}: was not what the run began with, and is written again")

    def _went_on(self, other: restore.Source) -> tuple[Any, str]:
        """What `Start.state` gives, of a run that goes on from another with its optimizer."""
        run, like = self.run, self.run.trainer.state_like
        try:
            found = read_state(other.workdir, other.step, like, run.trainer.stored_params(like))
        except Damaged as e:
            raise restore.damaged("config.init.from", other.name, other.workdir, other.step, e) from e
        run.selection.source_before = found.meta.get("source_before")
        run.reporter.say(f"{run.workdir}: going on from step {other.step} of {other.workdir}, with its optimizer")
        return run.start.restored(found, run.workdir), found.meta["parent_fingerprint"]

    def _check_best(self, checkpoints: Checkpoints) -> None:
        """Sees that what the run records as its best is there; else the best of what is there takes its place, and that is said."""
        run = self.run
        best = run.selection.best_step
        steps, ranked = processes.shared([checkpoints.steps(), best_steps(run.workdir)])
        if best < 0 or best in steps:
            return
        lost = f"{run.workdir}: its best checkpoint, of step {best}, is not there any more; "
        if not ranked:
            run.reporter.say(lost + "no other has a value, and the next evaluation is the best so far")
            run.selection.replace_best(None, -1)
            return
        value = together(lambda: read_meta(run.workdir, ranked[0]))["selected"]
        run.reporter.say(lost + f"the best is now that of step {ranked[0]} ({run.selection.metric} {value:.4g})")
        run.selection.replace_best(value, ranked[0])

    def _record(self, fingerprint: str) -> None:
        """What is known before the first step. config.json comes last: it marks the folder as a run's."""
        run, files, here = self.run, self.run.tokenizer.files(), Workdir(self.run.workdir)
        if here.is_run:  # of a run that never began
            for left in tok.stored(run.workdir) - set(files):
                (run.workdir / left).unlink()
        for name, data in files.items():
            write_bytes(run.workdir / name, data)
        write_json(here.lineage, self._lineage(fingerprint))
        if run.teacher is not None and (words := run.teacher.record(run.workdir)):
            run.reporter.say(words)
        for words in scorers.record(run.verifiers, run.workdir):
            run.reporter.say(words)
        write_json(here.environment, {"run_id": uuid.uuid4().hex, **environment.describe()})
        write_json(here.partition, run.trainer.partition.table())
        write_json(here.data, run.data.table)
        write_json(here.config, run.recorded.as_dict())

    def _lineage(self, fingerprint: str) -> list[dict[str, Any]]:
        """Of a run whose parent has the fingerprint `fingerprint`. What a parent would remove is protected, and that is said."""
        run = self.run
        came_from = run.continued or run.parent
        if came_from is None:
            return []
        if words := restore.protect(came_from, run.workdir):
            run.reporter.say(words)
        here, *before = came_from.lineage(run.continued.meta["fingerprint"] if run.continued else fingerprint)
        for earlier in Workdir(run.workdir).read_lineage()[:1]:  # of a launch that made no step: there it was chosen
            if "checkpoint" in earlier and here.get("step") == earlier["step"]:
                here["checkpoint"] = earlier["checkpoint"]
        if run.continued:
            return [here | {"optimizer": True}, *before]
        return [here | ({"wide": list(run.trainer.wide)} if run.trainer.wide else {}), *before]

    def _announce(self, step: int) -> None:
        run = self.run
        rows = [{k: v for k, v in row.items() if k != "paths"} for row in run.trainer.partition.table()]
        run.reporter.table(f"{run.workdir}: parameters", rows)
        run.reporter.say("\n".join([f"{run.workdir}: training data", *overview.announced(run.data.table)]))
        run.reporter.table("", overview.shown(run.data.table))
        if words := evaluate.costly(run.eval_batches, min(run.plan.eval_every, run.plan.steps)):
            run.reporter.say(words)
        if len(run.trainer.phases) > 1:
            trained = [run.trainer.partition.count(True, phase=k) for k in range(len(run.trainer.phases))]
            lines = [
                f"  from step {phase.start}: {phase.recipe}, {count:,} parameters, {phase.factor:g} x the rate"
                for phase, count in zip(run.trainer.phases, trained)
            ]
            run.reporter.say("\n".join([f"{run.workdir}: what trains when", *lines]))
        shardings = run.trainer.program.shardings
        per_device = sharding.bytes_per_device(run.trainer.state_like, shardings)
        shape = " x ".join(f"{k}={v}" for k, v in run.trainer.mesh.shape.items())
        what = f"{run.data.tokens:,} training tokens, vocabulary {run.tokenizer.vocab_size}"
        if run.config.model.image_size:
            what = f"{sum(map(len, run.data.sets)):,} training images"
        run.reporter.say(
            f"mesh {shape} ({run.trainer.mesh.devices.flat[0].platform}), {per_device / 2**20:.1f} MiB of state a device; "
            f"{what}; step {step} of {run.plan.steps}"
        )
        if leaves.splits(run.trainer.mesh):
            for line in leaves.copied(leaves.of_state(run.trainer.state_like)):
                run.reporter.say(f"warning: {line}")

    def _loop(
        self,
        checkpoints: Checkpoints,
        local: Local | None,
        writer: MetricsWriter,
        meta: dict[str, Any],
        termination: Termination,
    ) -> Loop:
        run = self.run
        base = None
        if run.parent is not None and run.trainer.refers_to_base:
            fingerprint = meta["parent_fingerprint"]
            base = restore.base_reference(
                run.parent, run.workdir, fingerprint, run.start.init["weights"], run.config, run.trainer.wide
            )
        saved = {
            "config": run.recorded.as_dict(),
            "tokenizer": {name: cache.digest(data) for name, data in run.tokenizer.files().items()},
            "data": run.data.key,
            "vocab_size": run.trainer.model.spec.vocab_size,
            "classes": list(run.classes),
            "chat_template": run.chat_template,
            "base": base,
            "before": meta["before"],
            "parent_fingerprint": meta["parent_fingerprint"],
            "reference": run.reference,
        }
        remarks = verdicts.watch(run.trainer.objective, run.workdir, run.first_step, meta["before"], run.reporter.say)
        loop = Loop(
            name=run.workdir.name,
            workdir=run.workdir,
            program=run.trainer.program,
            feed=run.feed,
            eval_sets=[*self._eval_sets(run.eval_batches), *self._behavior()],
            answer=answers.sampler(run.answers, run.trainer.partition, run.config.seed) if run.answers else None,
            selection=run.selection,
            schedule=self.plan,
            checkpoints=checkpoints,
            stored_params=run.trainer.stored_params,
            at_step=self._at,
            meta=saved,
            sample=run.sampler,
            writer=writer,
            reporter=run.reporter,
            termination=termination,
            first_step=run.first_step,
            pending=meta["pending"],
            step_metrics=meta["step_metrics"],
            clock=self.clock,
            watch=self.watch,
            local=local,
            hooks=[*(run.rollouts.hooks if run.rollouts else ()), *remarks, *self._progress(writer), *self.hooks],
        )
        if run.rollouts:
            run.rollouts.check = loop.check_step
        return loop

    def _behavior(self) -> list[BehaviorSet]:
        run = self.run
        if run.behavior is None:
            return []
        return [BehaviorSet(run.behavior, run.trainer.partition, run.trainer.program.whole)]

    def _eval_sets(self, batches: Mapping[str, list[Rows]]) -> list[EvalSet]:
        found = []
        for name, rows in batches.items():
            _, program, lengths = self.run.measuring(name)
            found.append(EvalSet(name, rows, program, lengths, raw=name in self.run.measured_raw))
        return found

    def _test(self, state: Any, check: Callable[[], None]) -> tuple[dict[str, float], dict[str, Any]]:
        """The values of the test sets, and of those whose rows have classes the tables of `ptft_jax.objectives.counts.shown`."""
        values: dict[str, float] = {}
        tables: dict[str, Any] = {}
        with self.clock("evaluation"):
            for eval_set in self._eval_sets(self.run.test_batches):
                found, confusion = eval_set.measured(state, check)
                values |= found
                if confusion is not None:
                    tables[eval_set.name] = counts.shown(confusion, self.run.classes)
        return values, tables

    @functools.cached_property
    def _gallery(self) -> Gallery:
        run = self.run
        model = dataclasses.replace(run.trainer.model, constrain=None)
        copied = NamedSharding(run.trainer.mesh, PartitionSpec()) if jax.process_count() > 1 else None
        return Gallery(run.trainer.objective, model, run.classes, run.pictures, copied, run.tokenizer)

    def _progress(self, writer: MetricsWriter) -> list[Hook]:
        """What keeps, at every evaluation, the same images beside what the model makes of them then."""
        if not self.run.eval_batches or not self._gallery.shows_progress:
            return []
        return [Hook(lambda at: at.evaluates, functools.partial(self._show_progress, writer))]

    def _show_progress(self, writer: MetricsWriter, at: Moment) -> None:
        name, batches = next(iter(self.run.eval_batches.items()))
        params = self._measured(self.run.trainer.program.whole(at.loop_state))
        with self.clock("samples"):
            found = self._gallery.progress(params, map(processes.all_rows, batches), first=at.first)
        writer.pictures(at.step, [{"set": name, **row} for row in found])

    def _show_pictures(self, state: Any, step: int, writer: MetricsWriter, check: Callable[[], None]) -> None:
        """Keeps images beside what the best state makes of them: of the test set, or of what was validated on."""
        sets = self.run.test_batches or self.run.eval_batches
        if not self.run.pictures or not sets:
            return
        name, batches = next(iter(sets.items()))
        with self.clock("samples"):
            found = self._gallery.rows(self._measured(state), map(processes.all_rows, batches), check)
        writer.pictures(step, [{"set": name, **row, "selected": True} for row in found])

    def _measured(self, state: Any) -> Any:
        """The parameters of a whole state that are evaluated."""
        return self.run.trainer.partition.merge(state.ema or state.trainable, state.frozen)

    def _finish(self, state: Any, loop: Loop, meta: dict[str, Any], reason: str) -> dict[str, Any]:
        """Goes to the best state, measures it on the test split, samples, and sums up. Can be done again, if it is disturbed.

        Raises:
          Terminated: see there.
        """
        run, writer = self.run, loop.writer
        step = int(run.trainer.program.whole(state).step)
        optimizer_bytes = sum(a.nbytes for a in jax.tree.leaves(run.trainer.program.whole(state).optimizer))
        cost = outcome.step_cost(run.trainer.program, state, run.feed.next(step - 1, state)) if step else None
        state, best = self._best(state, step, loop.checkpoints)
        test, tables = self._test(state, loop.check)
        if test:
            writer.write(best, "test", test)
        with self.clock("samples"):
            texts = run.sampler(run.trainer.program.whole(state), loop.check)
        writer.sample(best, *({**row, "selected": True} for row in texts))
        self._show_pictures(run.trainer.program.whole(state), best, writer, loop.check)
        recorded = Workdir(run.workdir).read_metrics()
        rows = processes.shared([r for r in recorded if r["kind"] == "eval"])
        at = {r["step"]: {k: v for k, v in r.items() if k not in ("step", "kind", "time")} for r in rows}
        tokens_per_step = run.config.data.batch_size * run.config.data.length
        positions = run.config.data.length + run.trainer.model.virtual_tokens
        flops = 3 * outcome.row_flops(run.config, run.trainer.model.spec, positions) * run.config.data.batch_size
        before, after = {**at.get(run.first_step, {}), **meta["before"]}, {**at.get(best, {}), **test}
        with self.clock("evaluation"):
            drift = outcome.drift(run.start, state, meta["parent_fingerprint"])
        trained = processes.shared(verdicts.of_training(recorded))
        remarks = run.trainer.objective.remarks(before, {**trained, **after}) + verdicts.of_answers(before, after)
        for remark in remarks:
            run.reporter.say(f"{run.workdir}: {remark}")
        seconds = self.clock.by_part
        return {
            "finished": True,
            "reason": reason,
            "workdir": str(run.workdir),
            "step": step,
            "best_step": best,
            "selected": {"metric": run.selection.metric, "value": run.selection.best},
            "before": before,
            "after": after,
            "transfer": outcome.gains(
                run.start, run.workdir, run.source.source if run.source is not None else "", before, after
            ),
            "drift": drift,
            "cost": cost,
            **({"confusion": tables} if tables else {}),
            **({"remarks": remarks} if remarks else {}),
            "last": at.get(step, {}),
            "parameters": {
                "trainable": run.trainer.partition.count(True),
                "frozen": run.trainer.partition.count(False),
            },
            "trainable_bytes": sum(leaf.bytes for leaf in run.trainer.partition.leaves if leaf.trains),
            "optimizer_bytes": int(optimizer_bytes),
            "train_tokens": run.data.tokens,
            "drawn": run.data.drawn(step),
            "tokens_seen": (step - run.first_step) * tokens_per_step,
            "tokens_to_best": (best - run.first_step) * tokens_per_step,
            "model_flops": (step - run.first_step) * flops,
            "seconds": sum(seconds.values()),
            "seconds_by": seconds,
            "step_seconds": loop.step_seconds,
            "seed": run.config.seed,
            "parent_fingerprint": meta["parent_fingerprint"],
        }

    def _best(self, state: Any, step: int, checkpoints: Checkpoints) -> tuple[Any, int]:
        """The state with the parameters of the best step, and that step; where its checkpoint is damaged, the next best, and
        where there is none, the state as it is. What is damaged is moved aside, and said."""
        run = self.run
        while (best := run.selection.best_step) not in (step, -1):
            try:
                return self._at(state, best), best
            except Damaged as e:
                run.reporter.say(
                    f"checkpoint {best}, the best, is damaged and was moved to {Workdir(run.workdir).damaged.name}/: {e}"
                )
                checkpoints.set_aside(best)
                self._check_best(checkpoints)
        return state, step

    def _at(self, state: Any, step: int) -> Any:
        """The state with the parameters of a saved step of this run. Its own are given up for the room.

        Raises:
          Damaged: the step is damaged. The state is as it was.
        """
        run, like = self.run, self.run.trainer.state_like
        meta = together(lambda: read_meta(run.workdir, step))
        together(lambda: check_files(run.workdir, step, contents=True))
        whole = run.trainer.program.whole(state)
        if has_record(run.workdir, step):  # without one only reading tells, and the state has to outlast that
            del state
            jax.tree.map(lambda a: a.delete(), (whole.trainable, whole.ema))
        params = flatten(read(run.workdir, step, "params", run.trainer.stored_params(like), meta))
        ema = read(run.workdir, step, "ema", like.ema, meta) if like.ema else {}
        trainable = unflatten({p: params[p] for p in flatten(like.trainable)})
        return run.trainer.program.adopt(dataclasses.replace(whole, trainable=trainable, ema=ema))


def _bars(reporter: Reporter) -> contextlib.AbstractContextManager[object]:
    """The reporter as a context, entered only by the outermost user (an experiment keeps it open over many runs)."""
    return contextlib.nullcontext() if reporter.active else reporter
