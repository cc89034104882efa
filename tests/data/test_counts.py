"""What is shown is what is trained: the counts of data.json are the sums of the weights that training draws in one epoch."""

import json

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.data import batches, builders, overview, pipeline
from ptft_jax.data import tokenizers as tok
from ptft_jax.errors import UserError

OBJECTIVES = {
    "causal_lm": {}, "prefix_lm": {}, "masked_lm": {}, "whole_word": {"name": "masked_lm", "whole_word": True},
    "span_corruption": {}, "classification": {},
}  # fmt: skip
WORDS = ("cat", "dog", "an owl", "fox and hen", "bee", "the elk")


def answers(n):
    said = [
        {"role": "user", "content": "w " * (n % 9)},
        {"role": "assistant", "content": "" if n % 5 == 0 else "yes " * (n % 13)},
    ]
    return {"messages": [*said, *(said if n % 3 else [])]}


DATA = {
    "text": lambda n: {"text": " ".join(WORDS[(n * k) % 6] for k in range(1, 2 + n % 11))},
    "answers": answers,
    "pairs": lambda n: {"prompt": "what " * (n % 7), "completion": "" if n % 4 == 0 else "that " * (n % 11)},
    "tokens": lambda n: {"input_ids": [97 + (n * k) % 26 for k in range(3 + n % 60)], "loss_mask": [int((n + k) % 3 > 0) for k in range(3 + n % 60)]},
    "classes": lambda n: {"text": f"number {n} " * (1 + n % 3), "label": n % 2},
}  # fmt: skip
HOW = (("concat", "truncate"), ("best_fit", "truncate"), ("first_fit", "split"), ("none", "drop"), ("auto", "truncate"))
PAIRS = {
    "causal_lm": ("text", "answers", "pairs", "tokens"), "prefix_lm": ("text", "answers"), "masked_lm": ("text", "tokens"),
    "whole_word": ("text", "answers"), "span_corruption": ("text",), "classification": ("classes",),
}  # fmt: skip
CASES = [
    (objective, data, *how)
    for objective, every in PAIRS.items()
    for data in every
    for how in HOW
    if objective != "classification" or how[0] in ("none", "auto")
]


@pytest.fixture(scope="module")
def tokenizer():
    return tok.with_tokens(
        tok.ByteTokenizer(), ["<|im_start|>", "<|im_end|>", "[MASK]", *(f"<extra_id_{i}>" for i in range(20))]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("counts")
    for name, record in DATA.items():
        (made / f"{name}.jsonl").write_text("".join(json.dumps(record(n)) + "\n" for n in range(90)))
    return made


def training(tokenizer, objective, steps=1, **data):
    settings = {"name": objective, **OBJECTIVES.get(objective, {})}
    config = configs.check(
        {"data": {"length": 48, "batch_size": 1, "untrainable": "drop", **data}, "objective": settings}
    )
    builder = builders.build(config.objective, tokenizer)
    return pipeline.training(config.data, tokenizer, builder, steps=steps, seed=3)


def drawn(found):
    """The sum of the weights of each source's rows over its first epoch, as training draws them."""
    whole = batches.Batches(found.sets, found.mixture, batch_size=1, seed=3, process=0, processes=1)
    sums, rows = np.zeros(len(found.sets)), np.zeros(len(found.sets), int)
    for step in range(100_000):
        if (rows == [len(s) for s in found.sets]).all():
            return sums
        [source], _ = whole.addresses(step)
        if rows[source] < len(found.sets[source]):
            rows[source] += 1
            sums[source] += whole[step]["weights"].sum()


@pytest.mark.parametrize("objective, data, packing, overlong", CASES, ids=["-".join(case) for case in CASES])
def test_learned_is_the_sum_of_the_weights_of_an_epoch(cache, tokenizer, folder, objective, data, packing, overlong):
    template = {"template": "chatml"} if data == "answers" else {}
    found = training(
        tokenizer, objective, source=f"jsonl:{folder}/{data}.jsonl", packing=packing, overlong=overlong, **template
    )
    [row] = found.table
    assert row["trained"] == drawn(found)[0] > 0
    assert row["tokens"] - row["tokens_lost"] == found.tokens
    if objective != "span_corruption":  # which adds sentinels and an end
        assert row["trained"] <= found.tokens


def test_what_a_budget_leaves_is_counted(cache, tokenizer, folder):
    for data in ("text", "pairs", "answers"):
        source, template = f"jsonl:{folder}/{data}.jsonl", {"template": "chatml"} if data == "answers" else {}
        whole = training(tokenizer, "causal_lm", source=source, overlong="truncate", **template)
        for options in ({"source": source, "train_tokens": 700}, {"source": f"{source}?examples=20"}):
            found = training(tokenizer, "causal_lm", overlong="truncate", **options, **template)
            [row] = found.table
            assert row["trained"] == drawn(found)[0] < whole.table[0]["trained"]
            assert row["empty_answers"] < whole.table[0]["empty_answers"] or data == "text"


def test_each_source_of_a_mixture_is_counted(cache, tokenizer, folder):
    names = ("text", "pairs", "answers")
    mixture = tuple((f"jsonl:{folder}/{name}.jsonl", weight) for name, weight in zip(names, (1.0, 2.0, 1.0)))
    found = training(tokenizer, "causal_lm", mixture=mixture, template="chatml", overlong="drop")
    assert [row["trained"] for row in found.table] == drawn(found).tolist()
    alone = [
        training(tokenizer, "causal_lm", source=source, template="chatml", overlong="drop") for source, _ in mixture[2:]
    ]
    assert alone[0].table[0]["trained"] == found.table[2]["trained"]


@pytest.mark.parametrize("objective", ["prefix_lm", "whole_word"])
def test_where_chance_decides_more_rows_are_estimated(cache, tokenizer, folder, objective, monkeypatch):
    exact = training(tokenizer, objective, source=f"jsonl:{folder}/text.jsonl", packing="none", overlong="truncate")
    monkeypatch.setattr(batches, "MEASURED", 40)
    about = training(tokenizer, objective, source=f"jsonl:{folder}/text.jsonl", packing="none", overlong="truncate")
    a, b = exact.table[0]["trained"], about.table[0]["trained"]
    assert a == drawn(exact)[0] and a != b and abs(a - b) < 0.3 * a


def test_empty_answers_are_counted_and_said_where_they_are(cache, tokenizer, tmp_path):
    """By hand: of 40 conversations, 4 have an empty answer and one has two; of these rows, that are cut off after 40 ids, one
    is cut before its empty answer, and one too long for a row is left out."""
    user, yes = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    nothing = [{"role": "assistant", "content": text} for text in ("", None, " \n ")]
    rows = [{"messages": [user, yes, user, yes]} for _ in range(40)]
    rows[3] = {"messages": [user, nothing[0]]}
    rows[7] = {"messages": [user, nothing[1], user, yes]}
    rows[8] = {"messages": [user, nothing[2], user, nothing[0]]}
    rows[9] = {"messages": [{"role": "user", "content": "long " * 40}, nothing[0]]}
    rows[10] = {"messages": [user, yes, {"role": "user", "content": "x" * 30}, nothing[0]]}
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in ("dev", "test"):
        (data / f"{split}.jsonl").write_text(json.dumps(rows[0]) + "\n")
    source = f"jsonl:{data}"
    found = training(tokenizer, "causal_lm", source=source, template="chatml", length=88, overlong="drop")
    assert found.table[0]["empty_answers"] == 5 and found.table[0]["dropped"] == 1
    assert [place.rsplit("line ")[-1] for place in found.table[0]["empty_at"]] == ["4", "8", "9", "11"]
    assert "5 of the answers are empty, and trained on as such: " in "\n".join(overview.announced(found.table))
    assert overview.shown(found.table)[0]["empty answers"] == 5
    cut = training(
        tokenizer, "causal_lm", source=source, template="chatml", length=60, overlong="truncate", packing="none"
    )
    assert cut.table[0]["empty_answers"] == 4 and cut.table[0]["trained"] == drawn(cut)[0]
    # They can be left unlearned; then nothing of two of them is.
    with pytest.raises(UserError, match="line 4: none of its tokens has loss, and so it is in 1 others"):
        training(
            tokenizer,
            "causal_lm",
            source=f"{source}?empty_answers=context",
            template="chatml",
            length=88,
            overlong="drop",
            untrainable="raise",
        )
    left = training(
        tokenizer, "causal_lm", source=f"{source}?empty_answers=context", template="chatml", length=88, overlong="drop"
    )
    assert left.table[0]["empty_answers"] == 0 and left.table[0]["untrainable"] == 2

    def ends(found):
        rows = [found.sets[0].row(i) for i in range(len(found.sets[0]))]
        return sum(int(row["weights"][row["targets"] == 258].sum()) for row in rows)

    assert ends(found) - ends(left) == 5
