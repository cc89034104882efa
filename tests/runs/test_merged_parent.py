"""What names the merged model of a run with an adapter is what is stored: merging rounds as the device does."""

import pathlib

import jax.numpy as jnp
import pytest

from ptft_jax import config as configs
from ptft_jax.adapters.base import LayerMethod
from ptft_jax.errors import UserError
from ptft_jax.params.rules import flatten, unflatten
from ptft_jax.runs import loading
from ptft_jax.runs import source as restore
from tests.helpers import quiet_train, stop_at, tiny_config

SUMS = {"params": {"blocks/mlp/up/adapter/lora_a": "01", "blocks/mlp/up/adapter/lora_b": "02"}}
BASE = {"workdir": "base", "fingerprint": "aa"}


def parent(method="lora", checksums=SUMS, base=BASE, **changes):
    config = configs.check({"tune": {"method": method}}, complete=False)
    return restore.Source(pathlib.Path("run"), 3, {"checksums": checksums, "base": base}, config, **changes)


def test_it_tells_apart_what_is_another_model_and_nothing_else():
    known = restore.merged_fingerprint(parent())
    assert restore.merged_fingerprint(parent()) == known and len(known) == 16
    assert restore.merged_fingerprint(parent(base={**BASE, "workdir": "moved"})) == known
    moved = {"params": {**SUMS["params"], "blocks/mlp/up/adapter/lora_b": "03"}}
    averaged = {**SUMS, "ema": SUMS["params"]}
    others = [
        restore.merged_fingerprint(parent(checksums=moved)),
        restore.merged_fingerprint(parent(base={**BASE, "fingerprint": "ab"})),
        restore.merged_fingerprint(parent(), merge_into="original"),
        restore.merged_fingerprint(parent(), merge_into="dequantized"),
        restore.merged_fingerprint(parent(checksums=averaged)),
        restore.merged_fingerprint(parent(left_out=("head/.*",))),
    ]
    assert len({known, *others}) == 7
    assert restore.merged_fingerprint(parent(checksums=averaged), "raw") == known
    assert restore.merged_fingerprint(parent("full", base=None)) == "", "what is read as it is stored is its own name"


def test_what_earlier_versions_recorded_is_accepted():
    params = {"x": jnp.arange(3.0)}
    computed, merged = restore.parameters_fingerprint(params), restore.merged_fingerprint(parent())
    assert restore.start_fingerprint(parent(), params, "auto", "") == merged
    assert restore.start_fingerprint(parent(), params, "auto", "", computed) == computed
    assert restore.start_fingerprint(parent(), params, "auto", "", merged) == merged
    assert restore.start_fingerprint(parent(), params, "auto", "", "of another") == merged
    assert restore.start_fingerprint(parent("full", base=None), params, "auto", "", "of another") == computed


@pytest.mark.heavy
def test_a_run_on_a_merged_parent_goes_on_where_merging_rounds_otherwise(text_file, tmp_path, monkeypatch):
    def config(start, **changes):
        return tiny_config(
            text_file, training__steps=2, init__from_=start, tune__method="lora", eval__every=0, **changes
        )

    quiet_train(tiny_config(text_file, training__steps=1, eval__every=0), tmp_path / "base")
    quiet_train(config(f"{tmp_path}/base"), tmp_path / "first")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1, patch)
        quiet_train(config(f"{tmp_path}/first"), tmp_path / "second")
    merge = LayerMethod.merge
    bits = lambda tree: unflatten({p: a * (1 + 2.0**-22) for p, a in flatten(tree).items()})  # noqa: E731
    monkeypatch.setattr(LayerMethod, "merge", lambda self, params: bits(merge(self, params)))
    done = quiet_train(config(f"{tmp_path}/first"), tmp_path / "second")
    assert done["finished"] and "missing" not in done["drift"]
    assert loading.load(f"{tmp_path}/second").params
    other = tmp_path / "first/checkpoints"
    quiet_train(config(f"{tmp_path}/base", seed=1), tmp_path / "another")
    other.rename(tmp_path / "aside")
    (tmp_path / "another/checkpoints").rename(other)
    with pytest.raises(UserError, match=r"another model|changed since|config.json"):
        loading.load(f"{tmp_path}/second")
