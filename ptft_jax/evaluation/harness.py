"""Tasks of EleutherAI's lm-evaluation-harness, measured of a loaded model in this process, without an export.

What is scored and how it is tokenized and cut are as in the harness' own model for Hugging Face (`lm_eval.models.huggingface`), so that
figures are the same; the arithmetic is this project's.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ptft_jax.data import chat
from ptft_jax.environment import needed
from ptft_jax.errors import UserError, listed, nearest
from ptft_jax.evaluation.samples import check_writer, written_ids
from ptft_jax.evaluation.tasks.scoring import Reader, Row
from ptft_jax.model.decode import Sampling

WHAT = "ptft lm-eval"
NEW_TOKENS = 256  # that the harness asks for where a task does not say
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # by priority, as in the harness


class Requests:
    """What the harness asks of a model, answered by a loaded one.

    Attributes:
      cut: how many requests were not answered as they were asked: "contexts" that were cut on the left, the harness' way with what does not
        fit, and "joined", continuations that were tokenized alone.
    """

    def __init__(self, loaded: Any, batch_size: int = 16, new_tokens: int = NEW_TOKENS):
        """
        Args:
          batch_size: rows at a time.
          new_tokens: of what is written, where a task does not say.

        Raises:
          UserError: a model that writes no text, or several adapters, of which none was chosen.
        """
        check_writer(loaded)
        if loaded.model.several:
            raise UserError(f"--run: {loaded.source.name} has several adapters; choose one: RUN#NAME")
        self._loaded, self._rows, self._new = loaded, batch_size, new_tokens
        self._reader = Reader(loaded.model, rows=batch_size, reads_prompt=loaded.reads_prompt)
        self.tokenizer, self.most = loaded.tokenizer, loaded.model.max_tokens
        self.cut: collections.Counter[str] = collections.Counter()

    @property
    def start_id(self) -> int:
        """What stands before a text that has nothing before it."""
        found = self.tokenizer.bos_id
        return self.tokenizer.end_id if found is None else found

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Token ids. `special`: with what the tokenizer has texts start and end with; None: unless the text starts so itself."""
        ids = self.tokenizer.encode(text, special=True).tolist()
        start = list(self.tokenizer.prefix_ids)
        if special is None:
            special = not (start and ids[: len(start)] == start)
        return [*start, *ids, *self.tokenizer.suffix_ids] if special else ids

    def apart(self, context: list[int], continuation: list[int], text: str) -> tuple[list[int], list[int]]:
        """A context and a continuation as they were cut out of the tokens of both, or, where one token reaches from the one into the other
        and nothing is left of the continuation, `text`, tokenized alone. (The harness' own model has no figure then, and stops.)"""
        if continuation or not text:
            return context, continuation
        self.cut["joined"] += 1
        return context, self.encode(text, False)

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether it is what greedy decoding gives) of each continuation after its context, both token ids. A
        context that does not fit is cut on the left.

        Raises:
          UserError: an empty continuation, or one that is longer than what the model sees.
        """
        rows = [self._row(context, continuation) for context, continuation in pairs]
        found = self._reader.scored(self._loaded.params, rows, lambda: None)
        return [(found[row].log_prob, found[row].greedy) for row in rows]

    def rolling(
        self, texts: Sequence[str], windows: Callable[[list[int]], Sequence[tuple[list[int], list[int]]]]
    ) -> list[float]:
        """Log-probabilities of whole texts; `windows`: how one that does not fit is read in pieces. An empty text has 0."""
        pieces = [(n, piece) for n, text in enumerate(texts) for piece in windows(self.encode(text))]
        totals = [0.0] * len(texts)
        for (n, _), (log_prob, _) in zip(pieces, self.likelihoods([piece for _, piece in pieces])):
            totals[n] += log_prob
        return totals

    def written(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What the model writes after each context, up to the first of its stop texts.

        Args:
          asked: (context, settings as tasks have them: until, max_gen_toks, do_sample, temperature, top_k, top_p, min_p, seed).

        Raises:
          UserError: a setting that is none of these; no room for so many new tokens.
        """
        groups: dict[str, list[int]] = {}
        for n, (_, given) in enumerate(asked):
            groups.setdefault(json.dumps(given, sort_keys=True), []).append(n)
        out = [""] * len(asked)
        for rows in groups.values():
            how = Writing.of(asked[rows[0]][1], self._new)
            room = self.most - how.new_tokens
            if room < 1:
                raise UserError(
                    f"a task asks for {how.new_tokens} new tokens, and the model sees {self.most}: give --gen_kwargs=max_gen_toks=N, or "
                    "max_gen_toks in the task's generation_kwargs"
                )
            prompts = [self.encode(asked[n][0]) or [self.start_id] for n in rows]
            self.cut["contexts"] += sum(len(prompt) > room for prompt in prompts)
            written = written_ids(
                self._loaded.model,
                self._loaded.params,
                self.tokenizer,
                [prompt[-room:] for prompt in prompts],
                max_new_tokens=how.new_tokens,
                sampling=how.sampling,
                seed=how.seed,
                stop=how.until,
                prefix=self._loaded.reads_prompt,
                apart=True,
                places=self._rows,
            )
            for n, one in zip(rows, written):
                out[n] = one.text
        return out

    def conversation(self, messages: Sequence[Mapping[str, Any]], answering: bool, template: str | None) -> str:
        """A conversation as the model's chat template has it. Raises UserError."""
        source = chat.template(self.tokenizer, template, "--apply_chat_template")
        return chat.render(self.tokenizer, messages, answering, template=source)

    def _row(self, context: Sequence[int], continuation: Sequence[int]) -> Row:
        if not continuation:
            raise UserError(
                f"a task asks for the probability of nothing: a continuation is no token of its own after {len(context)} tokens of context"
            )
        if len(continuation) > self.most:
            raise UserError(
                f"a task asks for the probability of {len(continuation):,} tokens at once, and the model sees {self.most:,}"
            )
        fits = self.most + 1 - len(continuation)
        self.cut["contexts"] += len(context) > fits
        return Row(tuple(context[-fits:]), tuple(continuation))


class Writing(NamedTuple):
    """How a task has a model write."""

    until: tuple[str, ...]
    new_tokens: int
    sampling: Sampling
    seed: int

    @classmethod
    def of(cls, given: Mapping[str, Any], new_tokens: int) -> Writing:
        """By a task's generation_kwargs. Raises UserError for one that has no counterpart."""
        left = dict(given)
        until = left.pop("until", None) or ()
        lengths = [value for value in (left.pop(name, None) for name in _LENGTHS) if value is not None]
        temperature, sampled = float(left.pop("temperature", None) or 0.0), left.pop("do_sample", None)
        if sampled and not temperature:
            temperature = 1.0
        filters = {name: left.pop(name) for name in ("top_k", "top_p", "min_p") if left.get(name) is not None}
        seed = int(left.pop("seed", 0))
        if left:
            known = ("until", *_LENGTHS, "do_sample", "temperature", "top_k", "top_p", "min_p", "seed")
            name = next(iter(left))
            raise UserError(f"generation_kwargs: {name} = {left[name]!r} has no counterpart here{nearest(name, known)}")
        chosen = Sampling(temperature, **filters) if sampled is not False and temperature else Sampling(temperature=0.0)
        texts = (until,) if isinstance(until, str) else tuple(until)
        return cls(tuple(text for text in texts if text), int(lengths[0]) if lengths else new_tokens, chosen, seed)


def language_model(loaded: Any, *, template: str = "", **options: Any) -> Any:
    """A loaded run as the harness' `lm_eval.api.model.TemplateLM`.

    Args:
      template: as of `measure`, where conversations are asked for.
      options: as of `Requests`.

    Raises:
      UserError: also where the harness is not installed.
    """
    api, utils = needed("lm_eval.api.model", WHAT), needed("lm_eval.utils", WHAT)

    class Model(api.TemplateLM):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.requests = Requests(loaded, **options)

        @property
        def eot_token_id(self) -> int:
            return self.requests.tokenizer.end_id

        @property
        def prefix_token_id(self) -> int:
            return self.requests.start_id

        @property
        def tokenizer_name(self) -> str:
            return loaded.source.name.replace("/", "__")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return self.requests.encode(string, add_special_tokens)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return chat.template(self.requests.tokenizer, template or None, "--apply_chat_template").source

        def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
            return self.requests.conversation(chat_history, add_generation_prompt, template or None)

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            before, after = super()._encode_pair(context, continuation)
            return self.requests.apart(before, after, continuation)

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return self.requests.likelihoods([(context, continuation) for _, context, continuation in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            def windows(ids: list[int]) -> list[tuple[list[int], list[int]]]:
                made = utils.get_rolling_token_windows(ids, self.prefix_token_id, self.requests.most, 1)
                return [utils.make_disjoint_window(window) for window in made]

            return self.requests.rolling([request.args[0] for request in requests], windows)

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            return self.requests.written([request.args for request in requests])

    return Model()


def check_tasks(tasks: Sequence[str], include: str = "") -> Any:
    """The harness' manager of tasks by name. Raises UserError for a name that is none, and where the harness is not installed."""
    manager = _manager(include)
    unknown = [name for name in tasks if not manager.match_tasks([name])]
    if unknown:
        known = manager.all_tasks
        raise UserError(f"--tasks: there is no task {unknown[0]!r}{nearest(unknown[0], known)}; it has {len(known):,}")
    return manager


@functools.cache
def _manager(include: str) -> Any:
    return needed("lm_eval.tasks", WHAT).TaskManager(include_path=include or None)


def measure(
    loaded: Any,
    tasks: Sequence[str],
    *,
    include: str = "",
    limit: int = 0,
    fewshot: int | None = None,
    template: str = "",
    gen_kwargs: str = "",
    seed: int = 1234,
    rows: list[dict[str, Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a loaded run (`ptft_jax.runs.loading.load`) does with tasks of the harness.

    Args:
      tasks: their names, or patterns of names, or groups.
      include: a folder with tasks of one's own (YAML files).
      limit: the first so many documents of each task; 0 = all.
      fewshot: examples before each document; None = as the task says.
      template: the name of a chat template around what is asked; "" = none, "default" = the tokenizer's own.
      gen_kwargs: NAME=VALUE,... over the tasks' own generation_kwargs.
      seed: of the harness' choice of examples.
      rows: where what was asked and answered is added.
      options: as of `Requests`.

    Returns:
      {"values": {"TASK/METRIC": value}, "errors": likewise standard errors, "documents": {task: how many}, "versions": {task: ...},
      "cut": contexts that were cut on the left, "joined": continuations that were tokenized alone}.

    Raises:
      UserError: a task that is not there or cannot be read; see `Requests`.
    """
    evaluator = needed("lm_eval.evaluator", WHAT)
    manager, model = check_tasks(tasks, include), language_model(loaded, template=template, **options)
    if template:
        model.chat_template()  # said before anything is computed
    try:
        found = evaluator.simple_evaluate(
            model=model,
            tasks=list(tasks),
            num_fewshot=fewshot,
            limit=limit or None,
            task_manager=manager,
            apply_chat_template=bool(template),
            gen_kwargs=gen_kwargs or None,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=None,
            fewshot_random_seed=seed,
            log_samples=rows is not None,
        )
    except (OSError, KeyError, ValueError, AssertionError) as e:
        raise UserError(f"--tasks={','.join(tasks)}: the harness cannot do them: {type(e).__name__}: {e}") from e
    if rows is not None:
        rows += [{"task": task, **row} for task, some in found["samples"].items() for row in some]
    values: dict[str, float] = {}
    errors: dict[str, float] = {}
    for task, measured in found["results"].items():
        for key, value in measured.items():
            name, _, filtered = key.partition(",")
            if filtered and isinstance(value, (int, float)):
                error = name.endswith("_stderr")
                shown = f"{task}/{name.removesuffix('_stderr')}" + ("" if filtered == "none" else f"/{filtered}")
                (errors if error else values)[shown] = float(value)
    if not values:
        raise UserError(f"--tasks: nothing was measured:{listed(list(found['results']))}")
    documents = {task: counts["effective"] for task, counts in found["n-samples"].items()}
    return {
        "values": values,
        "errors": errors,
        "documents": documents,
        "versions": dict(found["versions"]),
        "cut": model.requests.cut["contexts"],
        "joined": model.requests.cut["joined"],
    }
