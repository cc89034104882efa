"""What people are shown of data: pages and tables give every text as it is, and say what training makes of it."""

import html
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from ptft_jax import config as configs
from ptft_jax.data import filling, source_splits
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.builders.causal import Causal
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import as_table
from ptft_jax.training import rollout_files
from ptft_jax.verbs.data import rewarded, statistics, view
from tests.data import kinds
from tests.processes import ptft


def token(text, part="context", segment=1, **more):
    return view.Token(**{"id": 7, "text": text, "part": part, "segment": segment, "position": 3, "weight": 0.5, **more})


ROW = [
    token("<b>&"), token("\n", "learned"), token("[MASK]", "hidden", answer="a\n"), token("x", segment=2),
    *[token("·", "padding", 0)] * 900,
]  # fmt: skip


def test_a_page_has_every_token_as_it_is():
    page = view.page("A < B", [("row 0", ROW)])
    assert "<title>A &lt; B</title>" in page
    pieces = re.findall(r'<div class="piece".*?</div>', page, re.DOTALL)
    boxes = [re.findall(r'<span class="(\w+)[^"]*" title="([^"]*)">(.*?)</span>', p, re.DOTALL) for p in pieces]
    assert [[(part, html.unescape(re.sub("<[^>]*>", "", text))) for part, _, text in p] for p in boxes] == [
        [("context", "<b>&"), ("learned", "↵\n"), ("hidden", "[MASK]→a↵\n")],
        [("context", "x")],
    ]
    assert boxes[0][0][1] == "id 7, position 3, weight 0.5, context"
    assert "900 of padding" in page and page.count("·") == 0


def test_colors_show_line_ends_that_are_learned_and_count_padding():
    assert view.colored(ROW).plain == "<b>&↵\n[MASK]→a↵\nx\n(900 of padding)"
    assert view.colored([token("a\nb")]).plain == "a\nb"


def test_tables_have_no_markup_and_no_emoji():
    out = io.StringIO()
    rows = [{"source": "text:notes:", "[/]": "[red]x[/red]", "share": "5.0%"}]
    Console(file=out, width=80).print(as_table("jsonl:[a]/:cat:", rows))
    printed = out.getvalue()
    assert all(text in printed for text in ("jsonl:[a]/:cat:", "text:notes:", "[/]", "[red]x[/red]", "5.0%"))


def answered(**more):
    """Of the prompt "a", the answer "b<" and its end, of which the second token was the better one."""
    return {
        "where": "q.jsonl, line 3", "prompt": "a", "answer": "b<", "reference": "c", "tokens": 3, "reason": "end", "prompt_tokens": 1,
        "ids": [97, 98, 60, 256], "log_probs": [-0.5, -1.0, -0.25], "scores": {"exact": {"value": 0.0, "reason": "'b<' is not 'c'"}}, "reward": 0.0,
        "penalty": 0.5, "kl": 0.0, "counts": True, "unscored": False, **more,
    }  # fmt: skip


def test_answers_are_shown_with_what_they_were_rewarded_with():
    valued = answered(advantages=[-0.5, 1.0, 0.0], values=[0.1, 0.2, 0.3], returns=[0.0, 1.0, 0.3])
    rows = [valued, answered(advantage=-1.0), answered(advantage=0.0, kept=False)]
    tokenizer = tok.ByteTokenizer()
    page = rewarded.page("A < B", rows, tokenizer)
    boxes = re.findall(
        r'<span class="([\w-]+)[^"]*" style="--size: ([\d.]+)" title="([^"]*)">(.*?)</span>', page, re.DOTALL
    )
    assert [(part, html.unescape(text)) for part, _, _, text in boxes[:4]] == [
        ("context", "a"), ("worse", "b"), ("better", "<"), ("context", "<|endoftext|>"),
    ]  # fmt: skip
    assert boxes[2][2] == "id 60, advantage +1, log-probability -1, value 0.2, return 1"
    assert float(boxes[1][1]) < float(boxes[2][1]) == 1.0, "the largest advantage has the strongest color"
    assert [part for part, *_ in boxes[4:]] == ["context", *["worse"] * 3, "context", *["left-out"] * 3]
    assert "right answer: c" in page and html.escape("exact: 0 ('b<' is not 'c')") in page.replace("&#39;", "&#x27;")
    assert "reward 0, penalty 0.5, advantage +0.167 on average" in page and "other prompts took the place" in page
    assert rewarded.marked(rewarded.tokens(valued, tokenizer, 1.0)) == "a[b<<|endoftext|>]"


def test_answers_of_a_step_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="--step=3: .*000001.jsonl is not there.* it has made no step yet"):
        rewarded.read(tmp_path, 3, 2)
    rollout_files.write(tmp_path / "rollouts/000000.jsonl", {"rollout": 0}, [answered(advantage=1.0)])
    assert rewarded.read(tmp_path, 1, 2) == [answered(advantage=1.0)]
    with pytest.raises(UserError, match="--step=3: .* steps 0 to 1 have some$"):
        rewarded.read(tmp_path, 3, 2)
    rollout_files.write(tmp_path / "rollouts/000002.jsonl", {"rollout": 2}, [answered(advantage=1.0)])
    (tmp_path / "rollouts/000000.jsonl").rename(tmp_path / "rollouts/000004.jsonl")
    with pytest.raises(
        UserError, match="--step=3: .* steps 4 to 9 have some, but for those that learn from the data's"
    ):
        rewarded.read(tmp_path, 3, 2)


def test_answers_that_are_chosen_among_and_taught_ones_are_shown():
    """Rows of files of expert_iteration, online_dpo and gkd, which have no advantages."""
    whole = {name: value for name, value in answered().items() if name not in ("counts", "kl")}
    taught = {name: value for name, value in whole.items() if name not in ("reward", "penalty", "unscored")} | {
        "scores": {}
    }
    expected = {
        "kept": ("better", "kept: learned"), "chosen": ("better", "the better one"), "rejected": ("worse", "the worse one"),
        "duplicate": ("left-out", "says the same"), "": ("left-out", "reward 0, penalty 0.5, not learned from"), None: ("context", "what the teacher"),
    }  # fmt: skip
    for use, (part, said) in expected.items():
        row = taught if use is None else whole | {"use": use}
        found = rewarded.tokens(row, tok.ByteTokenizer(), rewarded.largest([row]))
        assert [t.part for t in found] == ["context", *[part] * 3] and "advantage" not in found[1].note
        assert said in "\n".join(rewarded.facts(row)) and said in rewarded.page("A", [row], tok.ByteTokenizer())
    assert all(part in rewarded.legend().plain for part in rewarded.MEANINGS)


@pytest.fixture
def texts(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"{i} " + "word " * 30)
    data = configs.check(configs.default().to_dict()).data
    return source_splits.tokenized(data, f"text:{tmp_path}", "train", tok.ByteTokenizer())


def test_a_suggested_length_holds_the_examples_whole(texts):
    longest = int(np.diff(texts.store.offsets).max())
    whole = statistics.suggestion(statistics.rows_by_length(texts, Causal()), "best_fit")
    assert whole["length"] == 256 >= longest - 1 > 128 and not whole["or_less"]
    full = np.mean(np.diff(texts.store.offsets) - 1) / 256  # two do not fit a row
    assert (
        f"{full:.1%} full" in whole["reason"]
        and statistics.suggestion(statistics.rows_by_length(texts, Causal()), "none")["length"] == 256
    )
    stream = statistics.suggestion(
        statistics.rows_by_length(texts, Causal()), filling.packed_how("auto", texts, Causal())
    )
    assert stream["length"] == 256 and stream["or_less"] and "cut anywhere" in stream["reason"]


def test_how_a_source_is_packed():
    from ptft_jax.data.builders.classes import Classes

    def how(kind, trained, setting="auto", builder=None):
        store = type("Store", (), {"trained": trained})
        return filling.packed_how(setting, type("Tokens", (), {"kind": kind, "store": store}), builder or Causal())

    assert [how("text", None), how("tokens", None), how("tokens", []), how("answers", [])] == [
        "concat", "concat", "best_fit", "best_fit",
    ]  # fmt: skip
    assert how("text", None, "first_fit") == "first_fit" and how("classification", None, builder=Classes()) == "none"
    with pytest.raises(UserError, match="'concat': a row has one class"):
        how("classification", None, "concat", Classes())


def test_prepared_tokens_are_read_by_the_tokenizer_that_made_them(tmp_path):
    (tmp_path / "model").mkdir()
    for name, data in kinds.gpt2().items():
        (tmp_path / "model" / name).write_bytes(data)
    (tmp_path / "a.txt").write_text("".join(f"line {i} of the cat\n" for i in range(100)))
    flags = [f"--source=text:{tmp_path}/a.txt", f"--tokenizer={tmp_path}/model", f"--out={tmp_path}/out"]
    ptft("data", "prepare", *flags, check=True)
    report = json.loads(ptft("data", "stats", f"--data=tokens:{tmp_path}/out", "--json", check=True).stdout)
    assert report["content"][0]["vocabulary"] > 300
    refused = ptft("data", "stats", f"--data=tokens:{tmp_path}/out", "--tokenizer=byte")
    assert refused.returncode == 2 and "another tokenizer" in refused.stderr
