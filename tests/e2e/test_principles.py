"""A run that improves its own answers: by checks and repairs, and what learning from that does to it."""

import json

import pytest

from ptft_jax.errors import UserError
from ptft_jax.evaluation import answers
from ptft_jax.feedback import making
from ptft_jax.model.decode import Sampling
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.training import assembly
from tests.helpers import quiet_train, tiny_config

TOML = """[[principles]]
name = "polite"
text = "Nobody is called names."
check = {verifier = "regex", most = 0, settings = {pattern = "fool"}}
repair = {pattern = "you fool", text = "friend"}
"""


@pytest.mark.heavy
def test_violations_fall_by_what_was_repaired(text_file, tmp_path, cache):
    ends = {"is it": "you fool", "can it": "friend"}
    rows = [{"prompt": f"{ask} {n}?", "completion": f" yes, {end}"} for n in range(40) for ask, end in ends.items()]
    (tmp_path / "rude.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "principles.toml").write_text(TOML)

    def config(source, steps, **changes):
        return tiny_config(
            text_file, data__source=f"jsonl:{source}", training__steps=steps, eval__every=0, optimizer__learning_rate=1e-2, model__max_length=64, **changes,
        )  # fmt: skip

    quiet_train(config(tmp_path / "rude.jsonl", 120), tmp_path / "rude")

    def rude(run):
        """The share of rude answers."""
        options = dict(verifiers=("regex",), rewards={"regex": {"pattern": "fool"}}, answers={"max_new_tokens": 16})
        return answers.answer(loading.load(run), f"jsonl:{tmp_path}/rude.jsonl", **options)[0]["regex"]

    assert 0.4 < rude(tmp_path / "rude") < 0.6
    loaded = loading.load(tmp_path / "rude")

    def made():
        options = dict(principles=str(tmp_path / "principles.toml"), max_new_tokens=16, sampling=Sampling(0.5))
        return making.prepared(loaded, f"jsonl:{tmp_path}/rude.jsonl", **options).made(3)

    found = made()
    assert made() == found
    counts = found.facts["principles"]["polite"]
    assert counts["violations_before"] > 20 and counts["violations_after"] == 0
    found.write(tmp_path / "made")
    start = dict(init__from_=str(tmp_path / "rude"), eval__parent_data=False)
    quiet_train(config(tmp_path / "made/revised.jsonl", 30, **start), tmp_path / "polite")
    assert rude(tmp_path / "polite") < 0.1
    pairs = dict(objective__name="dpo", objective__preference__beta=0.3, data__length=64)
    reads = assembly.Run(
        config(tmp_path / "made/pairs.jsonl", 2, **start, **pairs), tmp_path / "dpo", Reporter(quiet=True)
    )
    assert sum(row["examples"] for row in reads.data.table) > 15  # as they are
    with pytest.raises(UserError, match="--prefer=judges: no such verifier: .*did you mean 'judge'"):
        making.prepared(loaded, f"jsonl:{tmp_path}/rude.jsonl", prefer="judges")
    alone = making.prepared(
        loaded, f"jsonl:{tmp_path}/rude.jsonl?format=text&text=prompt", principles=str(tmp_path / "principles.toml"),
        max_new_tokens=16, sampling=Sampling(0.0), records=4,
    )  # fmt: skip
    assert [row["prompt"] for row in alone.made().rows] == [row["prompt"] for row in rows[:4]]
