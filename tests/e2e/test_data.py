"""Runs on data of many kinds: conversations, mixtures, replay, TFDS; what is learned is what should be; exact resuming."""

import json
import re

import numpy as np
import pytest

from configs.finetune import chat
from ptft_jax.data import batches
from ptft_jax.data.records import SPLITS, open_records, tfds_builder
from ptft_jax.errors import UserError
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, checkpoint, completion
from tests.helpers import happen, quiet_train, tiny_config
from tests.processes import ROOT, ptft


def conversations(path, count=60):
    """Questions whose answers are their numbers, told back."""
    rows = []
    for i in range(count):
        turns = [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}!"}]
        if i % 3 == 0:
            turns += [{"role": "user", "content": "more"}, {"role": "assistant", "content": "no"}]
        rows.append({"messages": turns})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat_config(text_file, path, **changes):
    options = dict(data__source=f"jsonl:{path}", data__template="chatml", data__length=192, model__max_length=192)
    return tiny_config(text_file, **(options | changes))


@pytest.mark.heavy
def test_fine_tuning_on_conversations(text_file, tmp_path):
    """Only what the assistant says is learned, the loss on it falls, and the model is talked to by the same template."""
    path = conversations(tmp_path / "chat.jsonl")
    quiet_train(tiny_config(text_file, model__max_length=192, training__steps=4), tmp_path / "base")
    config = chat.get_config(f"jsonl:{path}")
    config.init.from_ = str(tmp_path / "base")
    config.data.update(template="chatml", length=192)
    assert assembly.Run(config, tmp_path / "recipe", Reporter(quiet=True)).data.table[0]["trained"] > 0
    config = chat_config(
        text_file, path, init__from_=str(tmp_path / "base"), training__steps=30, eval__every=15,
        data__mixture=((f"jsonl:{path}", 3.0), ("parent", ((0, 2.0), (20, 0.5)))),
    )  # fmt: skip
    summary = quiet_train(config, tmp_path / "chat")
    assert summary["after"]["validation/nll"] < summary["before"]["validation/nll"] - 0.5
    assert {"source/nll", "source_test/nll", "test/nll"} <= set(summary["after"])
    table = json.loads((tmp_path / "chat/data.json").read_text())
    assert [row["source"] for row in table] == [f"jsonl:{path}", f"text:{text_file}"]
    assert (
        table[0]["format"] == "messages: messages from column 'messages'" and table[0]["trained"] < table[0]["tokens"]
    )
    assert sum(row["drawn"] for row in table) == 30 * 8 and 0.2 < table[1]["share"] < 0.4
    assert [row["rows"] for row in summary["drawn"]] == [row["drawn"] for row in table]
    saved = json.loads((tmp_path / "chat/config.json").read_text())["data"]["mixture"]
    assert saved == [[f"jsonl:{path}", 3.0], [f"text:{text_file}", [[0, 2.0], [20, 0.5]]]]

    shown = ptft("data", "show", f"--run={tmp_path}/chat", "--split=validation", "--as=json", "--rows=0", check=True)
    rows = [json.loads(line)["tokens"] for line in shown.stdout.splitlines()]
    for tokens in rows:
        for segment in range(1, max(t["segment"] for t in tokens) + 1):
            piece = [t for t in tokens if t["segment"] == segment]
            whole = "".join(t["text"] for t in piece)
            learned = "".join(t["text"] if t["part"] == "learned" else "\0" for t in piece)
            answers = re.findall(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", whole)
            assert answers and [part for part in re.split("\0+", learned) if part] == answers
    # Without a source, the first of the mixture is what is validated; a run is measured on data of another kind, too.
    only = tiny_config(text_file, data__source="", data__mixture=((f"text:{text_file}", 1.0), ("stdlib:prose", 1.0)))
    assert assembly.Run(only, tmp_path / "only", Reporter(quiet=True)).config.data.source == f"text:{text_file}"
    with pytest.raises(UserError, match="config.data.source is missing"):
        assembly.Run(tiny_config(text_file, data__source=""), tmp_path / "none", Reporter(quiet=True))
    words = ["eval", f"--run={tmp_path}/base", f"--data=jsonl:{path}", "--template=chatml", "--length=192"]
    assert json.loads(ptft(*words, check=True).stdout)["tokens_scored"] > 0
    answer = ptft("chat", f"--run={tmp_path}/chat", "--message=say 3", "--max_new_tokens=4", check=True)
    assert answer.stdout.startswith("> say 3\n")


def test_replay_does_not_train_on_what_the_parent_was_validated_on(text_file, tmp_path):
    quiet_train(
        tiny_config(text_file, training__steps=0, optimizer__warmup_steps=0, eval__test=False), tmp_path / "base"
    )
    changes = dict(
        init__from_=str(tmp_path / "base"), data__mixture=((f"text:{text_file}?examples=1", 1.0), ("parent", 1.0))
    )
    section, _ = completion.resolve(tiny_config(text_file, **changes))
    assert len(section.data.mixture) == 2
    with pytest.raises(UserError, match="held_out = 0.05, but the parent's is 0.1: .* name the sources"):
        completion.resolve(tiny_config(text_file, data__held_out=0.05, **changes))


def test_what_cannot_be_learned_from_is_refused_or_counted(text_file, tmp_path):
    path = conversations(tmp_path / "chat.jsonl")
    with path.open("a") as f:
        for _ in range(20):
            f.write(json.dumps({"messages": [{"role": "user", "content": "hello?"}]}) + "\n")
        f.write(
            json.dumps({"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]})
            + "\n"
        )

    def table(**changes):
        config = chat_config(text_file, path, data__held_out=0.02, eval__test=False, **changes)
        return assembly.Run(config, tmp_path / "run", Reporter(quiet=True)).data.table[0]

    with pytest.raises(UserError, match=r"chat.jsonl, line \d+: none of its tokens has loss.*data.untrainable"):
        table(data__overlong="drop")
    with pytest.raises(UserError, match=r"chat.jsonl, line 81: \d+ tokens are more than a row holds \(193"):
        table(data__untrainable="drop")
    found = table(data__untrainable="drop", data__overlong="drop")
    assert found["dropped"] == 1 and 15 <= found["untrainable"] <= 20 and found["efficiency"] > 0.7
    assert table(data__untrainable="drop", data__overlong="truncate")["dropped"] == 0
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        table(data__template="")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": f"{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(30)))
    with pytest.raises(UserError, match="preference.*the objective learns from text, answers, tokens"):
        table(data__source=f"jsonl:{pairs}")


CONFIG = """
from tests.e2e.test_data import resumable

def get_config():
    return resumable({text!r}, {chat!r})
"""


def resumable(text_file, chat, **changes):
    """Packed conversations and a stream of text, mixed by weights that change."""
    return chat_config(
        text_file, chat, data__mixture=((f"jsonl:{chat}", ((0, 1.0), (12, 3.0))), (f"text:{text_file}", 1.0)),
        data__max_epochs=50.0, training__steps=12, checkpoint__every=1, checkpoint__keep_latest=3,
        **changes,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.heavy
def test_a_run_is_continued_on_other_devices_with_the_same_data(text_file, tmp_path):
    chat = conversations(tmp_path / "chat.jsonl")
    whole = quiet_train(resumable(text_file, chat), tmp_path / "whole")
    assert whole["step"] == 12
    config = resumable(text_file, chat, data__prefetch=0)
    with pytest.MonkeyPatch.context() as patch:
        happen("sigterm@7", patch.setattr)
        stopped = quiet_train(config, tmp_path / "part")
    assert (stopped["reason"], stopped["step"]) == ("sigterm", 8)

    # The same devices: the same bits.
    import shutil

    shutil.copytree(tmp_path / "part", tmp_path / "again")
    quiet_train(config, tmp_path / "again")
    assert _bits(tmp_path / "again") == _bits(tmp_path / "whole")

    # Two devices instead of eight, with parts of batches: the same examples, and the same losses up to rounding.
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(text=str(text_file), chat=str(chat)))
    words = ["train", f"--config={file}", f"--workdir={tmp_path}/part", "--config.training.micro_batches=2"]
    done = ptft(*words, "--config.parallel.fsdp=2", devices=2, check=True, PYTHONPATH=str(ROOT))
    assert "continuing from step" in done.stderr
    ours, theirs = (
        {(r["kind"], r["step"]): r for r in Workdir(tmp_path / name).read_metrics()} for name in ("whole", "part")
    )
    for key in [("train", k) for k in range(9, 13)] + [("eval", 12)]:
        name = "loss" if key[0] == "train" else "validation/nll"
        assert theirs[key][name] == pytest.approx(ours[key][name], abs=2e-5), key  # float32 sums in another order


def _bits(workdir):
    return checkpoint.read_meta(workdir, 12)["checksums"]


@pytest.mark.heavy
def test_a_run_over_a_tfds_dataset_made_on_the_spot(text_file, tmp_path):
    path = tmp_path / "cats.jsonl"
    path.write_text("".join(json.dumps({"text": f"the cat {i} sat on mat {i * 7}"}) + "\n" for i in range(80)))
    splits = {s: open_records(f"jsonl:{path}", s, held_out=0.25) for s in SPLITS}
    tfds_builder.write_tfds(splits, "ptft_cats", "1.0.0", tmp_path / "tfds")
    source = f"tfds:ptft_cats?dir={tmp_path}/tfds"
    summary = quiet_train(tiny_config(text_file, data__source=source, training__steps=8), tmp_path / "run")
    assert summary["last"]["validation/nll"] < summary["before"]["validation/nll"]
    [row] = json.loads((tmp_path / "run/data.json").read_text())
    assert row["examples"] == len(splits["train"]) > 25 and row["source"] == source


OBJECTIVES = {
    "prefix_lm": {},
    "masked_lm": {"model__causal": False, "tokenizer__add": ("[MASK]",)},
    "span_corruption": {"tokenizer__add": tuple(f"<extra_id_{i}>" for i in range(4))},
}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", ["masked_lm", *(pytest.param(n, marks=pytest.mark.heavy) for n in ("prefix_lm", "span_corruption"))]
)
def test_every_objective_learns(text_file, tmp_path, name):
    config = tiny_config(text_file, objective__name=name, training__steps=16, eval__every=0, **OBJECTIVES[name])
    summary = quiet_train(config, tmp_path / "run")
    assert summary["after"]["validation/nll"] < summary["before"]["validation/nll"] - 0.3
    assert ("validation/bits_per_byte" in summary["after"]) == (name == "prefix_lm") or name == "prefix_lm"
    step = batches.Batches  # packed rows of several pieces, too
    packed = tiny_config(
        text_file, objective__name=name, data__packing="best_fit", data__overlong="split", **OBJECTIVES[name]
    )
    run = assembly.Run(packed, tmp_path / "packed", Reporter(quiet=True))
    made = step(run.data.sets, run.data.mixture, batch_size=8, seed=0, process=0, processes=1)[0]
    assert made["segments"].max() >= 1 and made["weights"].sum() > 0 and np.isfinite(made["weights"]).all()


@pytest.mark.heavy
def test_classes_of_texts(text_file, tmp_path):
    path = tmp_path / "labels.csv"
    lines = [f"{'good day' if i % 2 else 'bad night'} {i},{'yes' if i % 2 else 'no'}" for i in range(80)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    changes = dict(
        data__source=f"csv:{path}", objective__name="classification", model__head="classes", model__causal=False,
        training__steps=60, eval__every=0,
    )  # fmt: skip
    summary = quiet_train(tiny_config(text_file, **changes), tmp_path / "run")
    assert summary["after"]["validation/accuracy"] > 0.9
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "".join(f"x {i},{'yes' if i % 2 else 'maybe'}\n" for i in range(30)))
    loaded = loading.load(str(tmp_path / "run"))
    with pytest.raises(UserError, match="other.csv has the classes maybe, yes, and .*run@60 was trained on no, yes"):
        evaluate(loaded, f"csv:{other}", "validation")
    assert evaluate(loaded, f"csv:{path}", "test")["accuracy"] > 0.9
    three = tmp_path / "three.csv"
    three.write_text("text,label\n" + "".join(f"x {i},{i % 3}\n" for i in range(30)))
    with pytest.raises(UserError, match=r"model.classes = 2: the data have 3 classes"):
        assembly.Run(
            tiny_config(text_file, **{**changes, "data__source": f"csv:{three}"}), tmp_path / "no", Reporter(quiet=True)
        )
