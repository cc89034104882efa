"""A run's answers are scored by the same model from its beginning to its end."""

import json
import shutil

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.evaluation import answers
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly, scorers
from tests.helpers import quiet_train, stop_at, tiny_config


@pytest.mark.heavy
def test_a_run_that_goes_on_has_the_judge_that_it_began_with(text_file, tmp_path, monkeypatch):
    """Although the judge has learned more meanwhile, or has another place; one that is gone or another model is refused."""
    judge = tmp_path / "judge"
    learned = tiny_config(text_file, training__steps=4, eval__every=2, checkpoint__every=2, model__layers=1)
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert not quiet_train(learned, judge)["finished"]
    rows = [{"prompt": chr(97 + n % 8), "completion": chr(98 + n % 8)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(
        text_file, data__source=f"jsonl:{tmp_path}/rows.jsonl", training__steps=4, eval__every=2, checkpoint__every=2, model__layers=1,
        eval__answers__verifiers=("combined",), eval__answers__max_new_tokens=2, eval__answers__records=2, rewards__combined__parts=(("judge", 2.0),),
        rewards__judge__run=f"{judge}@last", rewards__judge__rubric="{answer}", rewards__judge__least_mass=0.0, rewards__judge__scale=(("a", 0.0), ("b", 1.0)),
    )  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert not quiet_train(config, tmp_path / "run")["finished"]
    known = json.loads((tmp_path / "run/scorers.json").read_text())
    assert known["judge"]["step"] == 2 and list((judge / "references").glob("2-*.json"))
    assert quiet_train(learned, judge)["finished"]

    begun = Workdir(tmp_path / "run")
    another = configs.check(
        {**config.to_dict(), "rewards": {"judge": {**config.rewards.judge.to_dict(), "run": str(tmp_path)}}},
        complete=False,
    )
    assert scorers.pinned(another, tmp_path / "run") == {} != begun.read_scorers()  # refused as another config, then

    def asked():
        run = assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
        return {name: model.step for verifier in run.verifiers for name, model in verifier.models().items()}

    assert asked() == {"judge": 2}
    found = answers.of_loaded(loading.load(tmp_path / "run"))
    assert [model.step for verifier in found.verifiers.values() for model in verifier.models().values()] == [2]
    assert Workdir(judge).steps()[-1] == 4
    other = {**known["judge"], "fingerprint": "0" * 16}
    (tmp_path / "run/scorers.json").write_text(json.dumps({"judge": other}))
    with pytest.raises(
        UserError, match=r"config.rewards.judge.run = '.*@last': .* began with step 2 .* another model now"
    ):
        asked()
    (tmp_path / "run/scorers.json").write_text(json.dumps(known))
    shutil.rmtree(judge / "checkpoints/2")
    with pytest.raises(
        UserError, match=r"judge.run = '.*@last': the run in .*run began with step 2 .* is not there any more"
    ):
        asked()
