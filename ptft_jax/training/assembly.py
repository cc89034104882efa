"""A run assembled from a config: data, parent, trainer and loop. The only file that knows all the parts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ptft_jax import __version__, environment, objectives, pairing
from ptft_jax import config as configs
from ptft_jax.config import spans, trackers
from ptft_jax.config.computed import changes
from ptft_jax.config.located import located
from ptft_jax.data import batches, builders, class_names, endings, pipeline, source_splits, trained_on
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.feed import Feed, Indexed
from ptft_jax.data.rows import Rows
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError, few, listed, nearest
from ptft_jax.evaluation import answers, behavior, evaluate, measured_sets, previews
from ptft_jax.evaluation.evaluate import Measuring
from ptft_jax.interop import padding, tokenizer_files
from ptft_jax.interop.pretrained import Pretrained
from ptft_jax.model.spec import wordless
from ptft_jax.parallel import mesh as meshes
from ptft_jax.parallel import processes
from ptft_jax.reporting.clock import Clock
from ptft_jax.reporting.progress import Reporter
from ptft_jax.rewards.base import Verifier
from ptft_jax.runs import bucket, identity, lease, meant, places, upload
from ptft_jax.runs import source as restore
from ptft_jax.runs.checkpoint import together
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import hooks as hooks_
from ptft_jax.training import profile as profiling
from ptft_jax.training import reference as references
from ptft_jax.training import scorers
from ptft_jax.training.completion import continued, head_of, renews_head, resolve
from ptft_jax.training.execution import Execution
from ptft_jax.training.hooks import Moment
from ptft_jax.training.importance import Importance
from ptft_jax.training.loop import Schedule
from ptft_jax.training.prompts import Prompts
from ptft_jax.training.rollouts import Rollouts
from ptft_jax.training.selection import Selection
from ptft_jax.training.start import Start
from ptft_jax.training.taught_answers import Taught
from ptft_jax.training.teacher import Teacher
from ptft_jax.training.trainer import Trainer


def device_rows(rows: int) -> int:
    """`rows` rounded up to a multiple of the devices."""
    return -(-rows // jax.device_count()) * jax.device_count()


class OtherConfig(UserError):
    """The workdir holds a run with another config."""


class NoMetric(UserError):
    """A metric that a run was asked for is none that it gives."""


class Run:
    """One run, assembled: everything but its arrays exists, and every setting has been read.

    Attributes:
      config: completed by the parent's, checked.
      recorded: the same as the run was begun with it: files may have been named otherwise.
      parent, continued: what it starts from, and the checkpoint that it goes on from with its optimizer; or None.
      trainer: what is trained and how (`ptft_jax.training.trainer`).
      start: where from (`ptft_jax.training.start`).
      importance: of parameters to the parent (EWC), or None.
      data: what it is trained on (`ptft_jax.data.pipeline.TrainingData`).
      forms: of the rows of a step; {} of a run without steps.
      feed: gives the rows of each step (`ptft_jax.data.feed`), those that `batches` gives from a step on; or `rollouts`.
      prompts, rollouts: what the model answers to learn from its answers; None where it does not.
      source: the data that forgetting is measured on, or None.
      pinned: the checkpoints of the models that score answers, of a run that has begun (`ptft_jax.training.scorers`).
      answers: questions that it answers at evaluations, or None.
      behavior: measures of behavior at evaluations (`ptft_jax.evaluation.behavior`), or None.
      eval_batches, test_batches: batches of each set that is evaluated on the way, and once at the end.
    """

    data: pipeline.TrainingData
    trainer: Trainer
    start: Start
    plan: Schedule
    eval_batches: dict[str, list[Rows]]
    test_batches: dict[str, list[Rows]]
    _by_retained: tuple[str, ...]
    forms: dict[str, jax.ShapeDtypeStruct]
    teacher: Teacher | None
    reference: str = ""  # what the reference or teacher of an objective is known by, where it is asked once

    def __init__(
        self,
        config: Mapping[str, Any] | configs.Config,
        workdir: pathlib.Path,
        reporter: Reporter,
        clock: Clock | None = None,
        moved: bool = False,
    ):
        clock, self._moved = clock or Clock(), moved
        given = configs.check(config, complete=False)
        self.continued = continued(given, workdir)
        self.config, self.parent = resolve(config, workdir)
        c = self.config
        self.trackers = trackers.chosen(c.log.trackers, c.tables.trackers)
        self.workdir, self.reporter = pathlib.Path(workdir), reporter
        for came_from in filter(None, (self.continued or self.parent,)):
            if said := restore.said(came_from):
                reporter.say(f"starting from {said}")
        self.first_step = self.continued.step if self.continued else 0
        if not c.training.epochs:  # else when they are counted
            self.recorded = self._as_begun()
            self._check_continued(c.training.steps)
        mesh = meshes.of_options(c.parallel)
        init: dict[str, Any] = c.init.read_all() if self.parent else {"weights": "auto", "fresh": (), "adapter": ""}
        self._check_rows(mesh)
        pairing.check_model(c.objective.name, c.model, c.tables.objectives)
        pairing.check_neighbors(c.as_dict())
        pairing.check_samples(c.objective.name, c.samples.prompts, c.tables.objectives)
        asked = c.eval.answers.verifiers
        pairing.check_samples(c.objective.name, asked, c.tables.objectives, "eval.answers.verifiers")
        tasks = c.eval.behavior.tasks
        pairing.check_samples(c.objective.name, tasks, c.tables.objectives, "eval.behavior.tasks")
        self.pinned = scorers.pinned(c, self.workdir, moved)
        with clock("data"):
            self._load_data(init["fresh"])
        c = self.config
        self._build(mesh, init)
        self._reading = {"batch_size": c.data.batch_size, "seed": c.seed, "prefetch": c.data.prefetch}
        self.feed: Feed = self.rollouts or Indexed(lambda step: self.batches(start=step))
        built = self.prompts.verifiers if self.prompts else {}
        self.answers = answers.of_run(c, self.trainer.model, self.tokenizer, self.adapters, built, self.pinned)
        self.behavior = behavior.of_run(c, self.trainer.model, self.tokenizer, self.adapters)
        self.selection = self._selection()
        self.local = self._local()
        self.checkpoint_options: dict[str, Any] = {
            "keep_latest": c.checkpoint.keep_latest,
            "keep_best": c.checkpoint.keep_best,
        }
        self.pictures = c.eval.pictures if c.model.image_size else 0
        self.sampler = previews.build(c, self.trainer.model, self.trainer.partition, self.tokenizer)
        span = functools.partial(spans.steps_of, steps=c.training.steps)
        self.plan = Schedule(
            steps=c.training.steps,
            eval_every=span(c.eval.every),
            save_every=span(c.checkpoint.every),
            local_every=span(c.checkpoint.local_every) if c.checkpoint.local else 0,
            sample_every=span(c.samples.every) if c.samples.prompts else 0,
            log_every=span(c.log.every),
            answer_every=answers.every(c) if self.answers else 0,
        )
        notes = [note for part in (self.prompts, self.answers, self.behavior) if part for note in part.notes]
        for note in dict.fromkeys(notes):
            reporter.say(note)
        missing = environment.missing("tensorboard") if c.log.tensorboard else ""
        if missing:
            reporter.say(f"no TensorBoard event files: {missing} (or log.tensorboard=False)")
        self.tensorboard = c.log.tensorboard and not missing
        for told in c.refuse_unread():
            reporter.say(told)
        added = tuple(text for text in c.tokenizer.add if text not in given.tokenizer.add)
        if added and not self.continued:
            reporter.say(
                f"config.tokenizer.add={added!r}: markers of {c.data.template}, which were no tokens (add_markers)"
            )
        self._say_what_stays()

    def _local(self) -> pathlib.Path | None:
        """Where checkpoints are saved beside the workdir. Raises UserError where that is no folder."""
        if not self.config.checkpoint.local:
            return None
        field = f"config.checkpoint.local = {self.config.checkpoint.local!r}"
        if self.config.checkpoint.local_every <= 0:
            raise UserError(
                f"{field}: config.checkpoint.local_every is missing: how many steps lie between saves there"
            )
        return places.local(self.config.checkpoint.local, field).expanduser().absolute()

    def batches(self, start: int) -> Iterator[Rows]:
        """This process' rows of step `start` and those after it."""
        adapters = bool(self.adapters)
        return batches.training(self.data.sets, self.data.mixture, start, adapters=adapters, **self._reading)

    def precompute(
        self, fingerprint: str, params: Callable[[], Any], check: Callable[[], None], recorded: str = ""
    ) -> None:
        """Puts into all rows what the objective needs of the run's start, before the first of them is read.

        Args:
          fingerprint, params: as of `ptft_jax.training.reference.start`.
          check: as of `ptft_jax.training.reference.Reference`.
          recorded: by what the run knows its reference, where it goes on.
        """
        if not self.trainer.objective.precomputed or self.teacher is not None:
            return
        self.reference = f"{fingerprint} {self.start.added_fingerprint}".strip()
        if recorded and recorded != self.reference:
            raise UserError(
                f"{self.workdir}: its reference, what it started from, has changed since the run was started"
            )
        self._put(references.start(self.trainer, self.reference, params), check)

    def ask_teacher(self, check: Callable[[], None], recorded: str = "") -> None:
        """As `precompute`, of the teacher, where there is one: best before the run's state takes its room."""
        if self.teacher is not None:
            asked, self.reference = self.teacher.asked(recorded)
            if isinstance(self.rollouts, Taught):
                self.rollouts.teacher = asked
            else:
                self._put(asked, check)

    def _put(self, asked: references.Asked, check: Callable[[], None]) -> None:
        made = references.Reference(self.trainer, asked, self.reporter, check)
        self.data = dataclasses.replace(self.data, sets=tuple(map(made.of_rows, self.data.sets)))
        for found in self._by_objective():
            made.into(found)

    @property
    def verifiers(self) -> list[Verifier]:
        """All that score its answers, in training and evaluation."""
        return [verifier for part in (self.prompts, self.answers) if part for verifier in part.verifiers.values()]

    def _by_objective(self) -> list[list[Rows]]:
        """The batches of each set that the run's own objective measures."""
        sets = self.eval_batches | self.test_batches
        return [found for name, found in sets.items() if name not in self._by_retained]

    def _as_begun(self) -> configs.Section:
        """The config as it is recorded: of a run that has begun, its files are named as they were then."""
        here = Workdir(self.workdir)
        if not here.is_run or not here.begun():
            return self.config
        recorded = meant.spelled(self.workdir, self.config, self._moved)
        changed = changes(*map(configs.decided, (here.read_config().as_dict(), recorded.as_dict())))
        if changed:
            raise OtherConfig(
                f"{self.workdir} holds a run with another config:{listed(changed, 20)}\n"
                "Choose another --workdir (init.from can start from this one), or give the same config to continue it"
            )
        return recorded

    def _check_continued(self, steps: int) -> None:
        if self.continued and steps <= self.first_step:
            epochs = self.config.training.epochs
            given = f"training.epochs = {epochs:g}, {steps:,} steps" if epochs else f"training.steps = {steps}"
            raise UserError(
                f"config.{given}: expected more than the {self.first_step} of {self.continued.name}, which "
                "count too (init.optimizer)"
            )

    def _check_rows(self, mesh: jax.sharding.Mesh) -> None:
        c = self.config
        if c.parallel.compile == "pmap" and jax.process_count() > 1:
            raise UserError("config.parallel.compile = 'pmap' is for a single process: 'jit' runs on several")
        per_step = c.data.batch_size // c.training.micro_batches
        rows = {
            "data.batch_size / training.micro_batches": per_step,
            "eval.batch_size": c.eval.batch_size or c.data.batch_size,
        }
        meshes.check_rows(rows, mesh)

    def _load_data(self, fresh: tuple[str, ...]) -> None:
        c = self.config
        alone = wordless(c.model)
        parent = None
        if self.parent and not alone and not wordless(self.parent.fields):
            parent = self.parent.tokenizer
        if c.model.image_size and c.tokenizer.add:
            words = (
                "a model of images has no tokens"
                if alone
                else "a tower for texts has the vocabulary that it begins with"
            )
            raise UserError(f"config.tokenizer.add = {c.tokenizer.add!r}: {words}; leave it at ()")
        if alone:
            self.tokenizer: tok.Tokenizer = tok.ByteTokenizer()  # pixels are bytes
        elif self.continued:
            self.tokenizer, _ = self.continued.tokenizer, c.tokenizer.read_all()
        else:
            texts = functools.partial(source_splits.training_texts, c.data, c.tables.objectives[c.objective.name].kinds)
            self.tokenizer = tok.build(c.tokenizer, texts, parent)
        self.known_tokens = parent.vocab_size if parent else 0
        self.adapters = trained_on.numbered(c.data, c.tune.adapters)
        self.builder = builders.for_model(c.objective, self.tokenizer, c.model, c.data)
        self.prompts: Prompts | None = None
        if self.builder.sampled:
            self.prompts = Prompts(c, self.tokenizer, self._feed.asks(c), self.pinned)
        options: dict[str, Any] = {"steps": c.training.steps, "epochs": c.training.epochs, "seed": c.seed}
        options["draws"] = self.prompts.draws if self.prompts else None
        self.data = pipeline.training(c.data, self.tokenizer, self.builder, **options, head=self._start_head(fresh))
        if c.training.epochs:
            self._count_steps()
            c = self.config
        self._check_template()
        self.chat_template = self._chat_template()
        self.head = self.data.head.settled()
        sets = measured_sets.sets(c, self.parent, self.tokenizer, self.builder, self.adapters, self.reporter, self.head)
        self.eval_batches, self.test_batches, self.source, self.retained = sets
        self._by_retained = sets.by_retained

    @property
    def _feed(self) -> type[Rollouts]:
        """The class that makes rows of what the model writes."""
        c = self.config
        return located(c.tables.objectives[c.objective.name].feed)

    def _count_steps(self) -> None:
        """Makes `training.steps` what `training.epochs` are, and says so."""
        c, steps, rows = self.config, self.data.steps, sum(len(s) for s in self.data.sets)
        self.config = configs.counted(c, steps)
        self.recorded = self._as_begun()
        self._check_continued(steps)
        self.reporter.say(
            f"training.epochs = {c.training.epochs:g}: {steps:,} steps of {c.data.batch_size:,} rows; one epoch is {rows:,} rows of "
            f"{c.data.length:,} tokens"
        )

    def _start_head(self, fresh: tuple[str, ...]) -> class_names.Head:
        """The classes that the head has at the start: the parent's, but as they were numbered where the run has begun (earlier
        versions numbered those of a child by its data)."""
        here = Workdir(self.workdir)
        head = class_names.of(self.continued) if self.continued else head_of(self.parent, fresh)
        begun = class_names.recorded(here.read_data()) if head.owner and here.begun() else ()
        return dataclasses.replace(head, names=begun) if begun else head

    def _check_template(self) -> None:
        if self.parent is None or self.config.model.image_size or Workdir(self.workdir).begun():
            return  # what has begun goes on as it was
        template = self.config.data.template
        mine = identity.Identity("this run", {}, None, identity.template(template, self.tokenizer, self.data.table))
        theirs = identity.Identity(self.parent.name, {}, None, identity.template_of(self.parent, self.parent.tokenizer))
        identity.check_templates(theirs, mine, f"; give config.data.template as {self.parent.name} has it")

    def _chat_template(self) -> str:
        """The source of the template that the run will talk by, "" for none; says where a turn's end is no token."""
        if self.config.model.image_size:
            return ""
        data, tokenizer = self.config.data, self.tokenizer
        adapter = self.config.init.adapter if self.parent else ""  # left unread, and so refused, where it does nothing
        found = identity.learned_template(data.template, tokenizer, self.data.table, self.parent, adapter)
        if found is None:
            return ""
        compiled = Template(found.source, f"chat template {found.name}")
        if texts := endings.missing(tokenizer, compiled):
            end = endings.of(tokenizer, compiled).text
            self.reporter.say(
                f"chat template {found.name}: {end!r}, which ends a turn, is {len(tokenizer.encode(end))} tokens of this "
                f"tokenizer, not one: other programs will not stop there. Add it, best before pre-training: "
                f"config.tokenizer.add={texts!r}"
            )
        return found.source

    def _say_what_stays(self) -> None:
        """Says at the start what `ptft export` would refuse at the end."""
        if processes.main() and not self.config.model.image_size:
            writes = self.config.model.causal and self.config.model.head == "lm"  # GGUF has no others
            for told in tokenizer_files.obstacles(self.tokenizer, self.chat_template, gguf=writes):
                self.reporter.say(told)

    def _build(self, mesh: jax.sharding.Mesh, init: dict[str, Any]) -> None:
        c = self.config
        rows = c.model.vocab_size or self.tokenizer.vocab_size
        if c.tokenizer.add:
            rows = max(rows, self.tokenizer.vocab_size)
        tok.check_fits(self.tokenizer, rows, "config.model.vocab_size")
        self.classes: tuple[str, ...] = ()
        if self.builder.labelled and not self.builder.numeric:
            self._check_classes(c.model.classes)
            self.classes = class_names.filled(self.head.names, c.model.classes)
        tuned = self.parent is not None
        references.check(c, objectives.build(c.objective), self.continued, tuned)
        encode = None if c.model.image_size else self.tokenizer.encode
        self.trainer = Trainer(c, vocab_size=rows, mesh=mesh, encode=encode, tuned=tuned)
        for note in self.trainer.notes:
            self.reporter.say(note)
        if (
            isinstance(self.parent, Pretrained)
            and self.trainer.model.spec.reads_last
            and not renews_head(init["fresh"])
        ):
            padding.refuse_end(self.parent, self.builder.last_tokens(self.tokenizer), "config.init.from")
        self._check_whole_rows()
        self.teacher = None
        objective = self.trainer.objective
        if objective.asks_teacher or (objective.precomputed and not objective.needs_reference):
            size = self.trainer.model.spec.vocab_size
            self.teacher = Teacher(c, self.tokenizer, size, self._packed, self.workdir, meshes.row_groups(mesh))
        self.start = Start(self.trainer, self.parent, init, known_tokens=self.known_tokens, continued=self.continued)
        self.importance = None
        if self.parent is not None and self.trainer.regularization.ewc:
            builder = self.builder
            if self.retained is not None:
                builder = builders.for_model(self.retained, self.tokenizer, c.model, c.data)
            learned = self._measuring if self.retained is None else self._retaining
            objective = learned.objective
            if objective.precomputed:  # of other rows than these
                objective = objective.live
            of_data = (self.source, self.tokenizer, builder, self.head, objective)
            self.importance = Importance(self.trainer, self.parent, *of_data)
        if self.trainer.objective.precomputed:
            self.data = dataclasses.replace(self.data, sets=references.pending(self.trainer, self.data.sets))
            for found in self._by_objective():
                references.pending_in(self.trainer, found)
        self.rollouts: Rollouts | None = None
        if self.prompts:
            of_run = (self.data, self.trainer, self.tokenizer, self.workdir, self.first_step, self.continued)
            self.rollouts = self._feed(c, self.prompts, *of_run)
        self.forms = {}
        if c.training.steps:
            self.forms = (
                self.rollouts.forms()
                if self.rollouts
                else batches.forms(self.data.sets, c.data.batch_size, adapters=bool(self.adapters))
            )
            self.trainer.program.check(self.trainer.state_like, self.forms)
        if self.trainer.measures:
            jax.eval_shape(self.trainer.step.evaluate, self.trainer.state_like, self.eval_batches["validation"][0])

    def _check_classes(self, count: int) -> None:
        evaluated = [b["targets"] for s in (self.eval_batches, self.test_batches) for rows in s.values() for b in rows]
        trained = [s.store.labels for s in self.data.sets if s.store.labels is not None]
        largest = max(int(labels.max()) for labels in (*trained, *evaluated))
        largest = max(*processes.gather(largest), len(self.head.names) - 1)
        if largest >= count:
            names = f" ({few(self.head.names)})" if self.head.names else f": the largest label is {largest}"
            raise UserError(f"config.model.classes = {count}: the data have {largest + 1} classes{names}")
        if (given := self.config.objective.class_weights) and len(given) != count:
            names = f" ({few(self.head.names)})" if self.head.names else ""
            raise UserError(
                f"config.objective.class_weights has {len(given)} weights, and the model {count} classes{names}: give one for each"
            )

    def _check_whole_rows(self) -> None:
        if not (why := self.trainer.model.one_text_a_row):
            return
        packed = self._packed()
        if self.builder.paired:
            raise UserError(
                f"config.objective.name = {self.config.objective.name!r}: both answers of a pair lie in one row, and cannot share learned "
                f"vectors before the tokens (tune.method) in a model with {why}: use another method"
            )
        if max(processes.gather(int(packed))):
            raise UserError(
                f"config.data.packing = {self.config.data.packing!r}: rows of several texts cannot share learned vectors before "
                f"the tokens (tune.method) in a model with {why}: set data.packing='none'"
            )

    def _packed(self) -> bool:
        """Whether rows hold several texts."""
        evaluated = [rows for found in (self.eval_batches | self.test_batches).values() for rows in found]
        return any(rows.packed for rows in self.data.sets) or any(
            rows.get("segments", np.zeros(1)).max() > 1 for rows in evaluated
        )

    def _selection(self) -> Selection:
        s = self.config.select
        budget: dict[str, Any] = {}
        if s.source_budget:
            if "source" not in self.eval_batches:
                reason = "set eval.source" if self.parent else "init.from names no parent"
                if self.config.tune.adapters:
                    reason = "as one number; with tune.adapters each of these has its own"
                raise UserError(
                    f"config.select.source_budget = {s.source_budget!r}: forgetting is not measured: {reason}"
                )
            budget = {"source_budget": s.source_budget, "stop_over_budget": s.stop_over_budget}
        known = self._evaluated
        if s.metric not in known:
            raise UserError(
                f"config.select.metric = {s.metric!r}: evaluations of this run give {', '.join(known)}{nearest(s.metric, known)}"
            )
        return Selection(s.metric, s.mode, s.patience, s.min_delta, **budget)

    @functools.cached_property
    def _evaluated(self) -> list[str]:
        """What every evaluation gives."""
        known = self._names(self.eval_batches)
        if self.answers and not self.config.eval.answers.every:  # else not every evaluation has them
            known += self.answers.names
        known += self.behavior.names if self.behavior else ()
        return known

    def _names(self, sets: Mapping[str, list[Rows]]) -> list[str]:
        known = []
        for name, rows in sets.items():
            objective, _, lengths = self.measuring(name)
            known += evaluate.names({name: rows}, self.trainer.metrics(objective), lengths, self.measured_raw)
        return known

    def check_metric(self, metric: str, flag: str, *, on_the_way: bool) -> None:
        """Raises NoMetric where the run does not give a metric: at every evaluation, or at its end, where its gain and forgetting are known
        too. `flag`: what asks for it."""
        known = [*self._evaluated]
        if not on_the_way:
            known += [*self._names(self.test_batches), *(self.answers.names if self.answers else ())]
            known += ["gain"] if self.parent else []
            known += ["forgetting"] if "source" in self.eval_batches else []
        if metric not in known:
            what = "evaluations of this run give" if on_the_way else "this run gives"
            raise NoMetric(f"{flag}={metric}: {what} {', '.join(dict.fromkeys(known))}{nearest(metric, known)}")

    def measuring(self, name: str) -> Measuring:
        """What a set is measured by: the run's objective, or what the parent learned from its data by."""
        return self._retaining if name in self._by_retained else self._measuring

    @functools.cached_property
    def _measuring(self) -> Measuring:
        return self._measuring_by(self.trainer.objective, self.trainer.program)

    @functools.cached_property
    def _retaining(self) -> Measuring:
        objective = objectives.build(self.retained).alone
        return self._measuring_by(objective, self.trainer.evaluations(objective))

    def _measuring_by(self, objective: Any, program: Any) -> Measuring:
        return Measuring(objective, program, tok.byte_lengths(self.tokenizer) if objective.chained else None)

    @property
    def measured_raw(self) -> tuple[str, ...]:
        """The sets that the parameters themselves are measured on, too, beside their average."""
        return ("validation",) if self.config.training.ema_decay else ()


def train(
    config: Mapping[str, Any] | configs.Config,
    workdir: str | pathlib.Path,
    *,
    reporter: Reporter | None = None,
    max_seconds: float = 0.0,
    hooks: Sequence[tuple[Callable[[Moment], bool], Callable[[Moment], None]]] = (),
    profile: str = "",
    clock: Clock | None = None,
    check: Callable[[Run], None] = lambda _: None,
    moved: bool = False,
    hung_seconds: float = 0.0,
) -> dict[str, Any]:
    """Runs, or continues, the run of `config` in `workdir`, and returns its summary (also written as summary.json).

    A finished run is not run again. Where there are several processes, all call this, in the same (shared) `workdir`, which
    is theirs alone meanwhile. SIGTERM makes it save and return; a second one ends the process.

    Args:
      config: the settings, as `ptft_jax.config.default()` gives them, or a nested dict of those that differ.
      workdir: the folder of the run, or gs://BUCKET/FOLDER, s3://BUCKET/FOLDER.
      reporter: where messages, tables and bars go; by default standard error.
      max_seconds: save and return after so many seconds from the beginning of `clock`; 0 = no limit.
      hooks: pairs (when, do) of functions that are called between steps, see `ptft_jax.training.hooks`.
      profile: "START:STOP": a trace of the steps after START up to STOP for XProf and Perfetto, in WORKDIR/profile.
      clock: counts where the time goes; by default from now on.
      check: is given the assembled run before anything is compiled or written, and raises UserError to refuse it.
      hung_seconds: end the process, with the status after SIGTERM, where nothing has moved for so many seconds; 0 = never.
      moved: what the config names is what the run was begun with, wherever it lies now: whoever asks knows that by the content.

    Returns:
      The summary: "finished", "reason", "step", "best_step", the metrics "before" and "after", and more. Of a run that was
      stopped early "finished" is False, and the same call continues it.

    Raises:
      UserError: anything wrong with what was asked for, or another launch is running in the workdir.
    """
    reporter, clock, hooks = reporter or Reporter(), clock or Clock(), hooks_.checked(hooks)
    training = configs.check(config, complete=False).training
    traced = profiling.steps_of(profile, training.steps) if profile and not training.epochs else None
    place = together(lambda: _place(workdir))
    versions = {"ptft_jax": __version__, **environment.versions()}
    processes.check_same({f"version of {name}": version for name, version in versions.items()})
    done = processes.shared(Workdir(place).read_summary())
    with (
        clock.listening(),
        _owned(place, reporter.say) if done is None else contextlib.nullcontext(_nothing) as settled,
    ):
        with clock("start"):
            run = Run(config, place, reporter, clock, moved)
        check(run)
        if profile and training.epochs:
            traced = profiling.steps_of(profile, run.config.training.steps)
        settings = run.config.as_dict()
        evaluated = {f"batches of {name}": len(b) for name, b in (run.eval_batches | run.test_batches).items()}
        same = {f"config.{name}": configs.get(settings, name) for name, _ in run.config.fields()}
        # What is the latest of a run that goes on may be another a moment later.
        same |= {"step of config.init.from": [s.step for s in (run.continued, run.parent) if s is not None]}
        processes.check_same({**same, "training data": run.data.key, "classes": run.classes, **evaluated})
        if done is not None:
            reporter.say(f"{run.workdir}: finished before ({done['reason']} at step {done['step']})")
            return done
        return Execution(run, max_seconds, clock, hooks, traced, hung_seconds, settled).carry_out()


def _place(workdir: str | pathlib.Path) -> pathlib.Path:
    """The folder of the run; of one in a bucket, process 0 brings what is there, before the others look."""
    field = f"--workdir={workdir}"
    if not bucket.is_url(workdir):
        return places.local(workdir, field)
    return places.run(workdir, field, new=True) if processes.main() else bucket.folder_of(str(workdir), field)


@contextlib.contextmanager
def _owned(place: pathlib.Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """As `lease.owned` and, where the folder stands for one of a bucket, `upload.uploaded`."""
    with lease.owned(place, say), upload.uploaded(place, say) as settled:
        yield settled


def _nothing() -> None:
    """Of a run that is not carried out."""
