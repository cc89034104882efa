"""What a model is asked that makes data of its answers: prompts with answers, or alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.data import chat, records, source_splits, token_folder, turns
from ptft_jax.data.sandbox import Template
from ptft_jax.errors import UserError
from ptft_jax.evaluation import questions
from ptft_jax.evaluation.questions import Questions
from ptft_jax.evaluation.samples import prompt_ids
from ptft_jax.rewards.base import Task
from ptft_jax.runs import identity

AS_TEXT = "prompt-completion"  # the format whose prompts are plain texts, whatever template they are rendered by


def asked(data: Any, split: str, loaded: Any, settings: Mapping[str, Any]) -> Questions:
    """The prompts of `config.data`: those of records with answers, as of `questions.asked`; of texts (`format=text&text=COLUMN`) each is a
    prompt, a turn of the user's where the run talks by a chat template.

    Raises:
      UserError: data of another kind, or no prompt that leaves room for an answer.
    """
    tokenizer, most = loaded.tokenizer, loaded.model.max_tokens
    if records.parted(data.source)[0] != token_folder.KIND:
        split, opened = source_splits.to_measure(data, data.source, split)
        opened = opened or source_splits.opened_of(data, data.source, split)
        if opened.format.kind == "text":
            return _of_texts(data, split, opened, loaded, settings)
        if split == "all":
            split = ""
    return questions.asked(data, data.source, split, tokenizer, most, settings)


def _of_texts(data: Any, split: str, opened: Any, loaded: Any, settings: Mapping[str, Any]) -> Questions:
    tokenizer, rows, new = loaded.tokenizer, opened.records, settings["max_new_tokens"]
    template = _template(data, loaded)
    tasks, ids, unasked = [], [], []
    for index in range(min(len(rows), settings["records"] or len(rows))):
        record, where = rows[index], rows.where(index)
        task = Task(opened.format.text(record, "text", where), (), record, where)
        if template is None:
            [prompt] = prompt_ids(tokenizer, [task.prompt], {})
        else:
            messages = [{"role": "user", "content": task.prompt}]
            try:
                prompt = chat.encode_chat(tokenizer, messages, True, template=template).tolist()
                text = chat.render(tokenizer, messages, True, template=template)
            except UserError as e:
                raise UserError(f"{where}: {e}") from e
            task = task._replace(prompt=text, conversation=turns.Conversation(messages, {}, where))
        if len(prompt) + new > loaded.model.max_tokens:
            unasked.append(where)
            continue
        tasks.append(task)
        ids.append(prompt)
    if not tasks:
        raise UserError(
            f"--max_new_tokens={new}: the model sees at most {loaded.model.max_tokens} tokens, and no prompt of {data.source} ({split}) "
            "leaves room for so many new ones"
        )
    stop = questions.stops(tokenizer, template, settings["stop"])
    return Questions(data.source, split, len(rows), tuple(tasks), tuple(ids), tuple(unasked), stop, "text", template)


def _template(data: Any, loaded: Any) -> Template | None:
    if data.template:
        return chat.template(loaded.tokenizer, data.template, "data.template", turns.DAY)
    own = loaded.template or identity.chat_template(loaded.source)
    return Template(own, f"{loaded.source.name}: chat template", turns.DAY) if own else None


def notes(questions: Questions, loaded: Any) -> list[str]:
    """What people should know of how prompts are given."""
    own = loaded.template or identity.chat_template(loaded.source)
    if questions.template is not None or not own:
        return []
    return [
        f"prompts are given as plain texts, and {loaded.source.name} has a chat template: name it in --template for turns"
    ]


def written(task: Task, form: str) -> dict[str, Any]:
    """A prompt as data that are learned from have it: a text, or messages, with the tools and documents that it was rendered with; by
    columns."""
    if task.conversation is None:
        return {"prompt": task.prompt}
    messages = list(task.conversation.messages)
    if form == AS_TEXT:
        return {"prompt": messages[0]["content"]}
    return {"prompt": messages, **{name: found for name, found in task.conversation.variables.items() if found}}


def answered(text: str, prompt: Any) -> Any:
    """An answer likewise."""
    return text if isinstance(prompt, str) else [{"role": turns.ASSISTANT, "content": text}]
