"""A run whose files were changed by hand is no longer that run: every verb says so and names what changed."""

import json
import shutil

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.runs import loading
from tests.helpers import quiet_train, repeats, tiny_config
from tests.processes import ptft


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed") / "run"
    made = tiny_config(text_file, training__steps=2, tokenizer__kind="bpe", tokenizer__vocab_size=270, eval__every=0)
    quiet_train(made, folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def _edit(workdir, path, value):
    file = workdir / "config.json"
    config = json.loads(file.read_bytes())
    *parents, last = path.split(".")
    section = config
    for key in parents:
        section = section[key]
    section[last] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "field, value, was",
    [
        ("model.heads", 4, 2),
        ("model.norm_eps", 1e-3, 1e-5),
        ("model.activation", "relu", "gelu_tanh"),
        ("data.length", 16, 32),
        ("seed", 7, 0),
    ],
)
def test_a_changed_setting_is_named(copy, field, value, was):
    loading.load(str(copy))
    _edit(copy, field, value)
    for reference in (copy, f"{copy}@best", f"{copy}@2"):
        with pytest.raises(UserError) as error:
            loading.load(str(reference))
        assert f"{field}: {was!r} -> {value!r}" in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize(
    "field, value",
    [("data.prefetch", 5), ("log.every", 3), ("checkpoint.keep_latest", 4), ("training.micro_batches", 2)],
)
def test_what_a_run_may_be_continued_with_may_change(copy, field, value):
    _edit(copy, field, value)
    assert configs.get(loading.load(str(copy)).source.config.as_dict(), field) == value


def test_a_changed_tokenizer_is_named(copy, tmp_path, text_file):
    file = copy / "tokenizer.json"
    content = json.loads(file.read_bytes())
    vocabulary = content["model"]["vocab"]
    a, b = list(vocabulary)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tokenizer\.json: this file of the tokenizer has changed"):
        loading.load(str(copy))
    child = tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0, init__from_=str(copy))
    with pytest.raises(UserError, match=r"tokenizer\.json: this file of the tokenizer has changed"):
        quiet_train(child, tmp_path / "child")
    file.unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json: this file of the tokenizer is missing"):
        loading.load(str(copy))


@pytest.mark.heavy
@pytest.mark.parametrize("how", repeats(["cut", "flipped", "missing"], "flipped"))
def test_a_damaged_file_of_arrays_is_one_clean_message(copy, how):
    for file in (copy / "checkpoints/2/params").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if how == "missing":
            file.unlink()
        else:
            file.write_bytes(data[:500] if how == "cut" else data)
    for verb in (["eval", "--tokens=100"], ["generate", "--prompt=the", "--max_new_tokens=4"]):
        done = ptft(*verb, f"--run={copy}@2")
        assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
        assert "checkpoint 2 is damaged" in done.stderr and done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr and "Event loop" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["lineage.json", "environment.json"])
def test_a_damaged_file_of_a_run_is_named(copy, tmp_path, text_file, name):
    (copy / name).write_text("{")
    child = tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0, init__from_=str(copy))
    with pytest.raises(UserError, match=rf"{name}: is damaged, it is not JSON"):
        quiet_train(child, tmp_path / "child")


@pytest.mark.heavy
def test_a_damaged_summary_of_the_parent_ends_no_child(copy, tmp_path, text_file):
    """It is only where the loss at the parent's start could have been read."""
    (copy / "summary.json").write_text("{")
    child = tiny_config(text_file, training__steps=1, optimizer__warmup_steps=0, init__from_=str(copy))
    assert quiet_train(child, tmp_path / "child")["finished"]


def test_a_changed_run_is_not_kept_from_removing_what_was_not_read(copy):
    (copy / "summary.json").unlink()  # as of a run that goes on
    _edit(copy, "model.norm_eps", 1e-3)
    with pytest.raises(UserError, match="norm_eps"):
        loading.load(str(copy))
    assert not (copy / "references").exists()
