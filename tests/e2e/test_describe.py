"""A model of text that learns what is said of images: joined of two runs, its projector alone, then LoRA; the same runs as any."""

import json

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.combining.combine import combine
from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.evaluation.samples import generate
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import export
from ptft_jax.model import decode
from ptft_jax.params.rules import flatten
from ptft_jax.reporting.progress import Reporter
from ptft_jax.runs import loading
from ptft_jax.runs.workdir import Workdir
from ptft_jax.training import assembly
from tests.helpers import TIMED, quiet_train, stop_at, tiny_config

WORDS = ("up", "down", "dark")
VIT = dict(causal=False, image_size=8, patch_size=4, max_length=5, channels=1, layers=2, width=16, heads=2, scan=False)
TOWER = tuple((name, value) for name, value in VIT.items() if name != "scan")
FROZEN = (("projector/.*", 1.0), (".*", 0.0))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Images whose upper half is bright, or the lower, or none, with a question and its answer; with a class; and what is said of them as text."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("halves")
    lines, texts = [], []
    for n in range(240):
        image, word = rng.integers(0, 80, (8, 8)), WORDS[n % 3]
        image[: 4 if n % 3 == 0 else 0] += 150
        image[4 if n % 3 == 1 else 8 :] += 150
        np.save(folder / f"{n}.npy", image.astype(np.uint8))
        lines.append({"image": f"{n}.npy", "label": word, "question": "is it? ", "answer": word})
        texts.append({"text": f"{n} {word} is it? {word}"})
    for name, rows in (("asked", lines), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def common(config, steps):
    config.optimizer.update(learning_rate=1e-2, warmup_steps=2)
    config.training.steps = steps
    config.eval.update(every=0, test=False, tokens=0)
    config.log.update(every=1, tensorboard=False)
    return config


def described(sources):
    """From random parameters."""
    config = configs.default()
    config.model.update(layers=2, width=16, heads=2, max_length=40, tower=TOWER)
    config.data.update(source=f"images:{sources}/asked.jsonl", batch_size=16, length=24, prefetch=0)
    config.objective.name = "vision_lm"
    return common(config, 8)


@pytest.mark.heavy
def test_two_stages_of_two_runs(sources, tmp_path, cache, monkeypatch):
    text = tiny_config(sources, data__source=f"jsonl:{sources}/texts.jsonl", model__max_length=40, data__length=24)
    quiet_train(common(text, 60), tmp_path / "text")
    images = configs.default()
    images.model.update(VIT | dict(head="classes", classes=3, pooling="mean"))
    images.data.update(source=f"images:{sources}/asked.jsonl", batch_size=16)
    images.objective.name = "classification"
    quiet_train(common(images, 20), tmp_path / "images")
    parents = [str(tmp_path / name) for name in ("text", "images")]
    for runs, options, said in (
        (parents[::-1], {}, "images@.* reads images: the first --run is the model of text"),
        (parents[:1] * 2, {}, "text@.* reads texts: the second --run is the model of images"),
        (parents, {"skip": 2}, "has 2 blocks, of which --skip=2 leaves none"),
        (parents, {"merge": 3}, "has 2 patches in a row, which --merge=3 does not divide"),
        (parents, {"projector": "mpl"}, "--projector=mpl: expected one of mlp, linear"),
    ):
        with pytest.raises(UserError, match=said):
            combine("tower", runs, tmp_path / "joined", **options)
        assert not (tmp_path / "joined").exists()
    combine("tower", parents, tmp_path / "joined", skip=1, seed=3)
    places = [entry["workdir"] for entry in Workdir(tmp_path / "joined").read_lineage()]
    assert places == parents, "the lineage names both"
    theirs = [flatten(loading.load(parent).params) for parent in parents]
    joined = flatten(loading.load(str(tmp_path / "joined")).params)
    assert {p for p in joined if not p.startswith(("tower/", "projector/"))} == {*theirs[0]}
    assert all(np.array_equal(array, joined[path]) for path, array in theirs[0].items())
    for part in ("attention/query/kernel", "mlp/up/bias"):
        np.testing.assert_array_equal(joined[f"tower/layer_0/{part}"], theirs[1][f"blocks/{part}"][0])
    np.testing.assert_array_equal(joined["tower/embed/patches/kernel"], theirs[1]["embed/patches/kernel"])
    assert not any(p.startswith(("tower/layer_1/", "tower/norm/")) for p in joined)

    config = common(files.recipe(f"images/describe:project,images:{sources}/asked.jsonl"), 60)
    config.data.update(batch_size=16, length=24)
    config.init.from_ = str(tmp_path / "joined")
    summary = quiet_train(config, tmp_path / "one")
    after = summary["after"]
    assert after["validation/nll"] < after["validation/nll_other_images"], "the image tells"
    assert after["source/nll"] == summary["before"]["source/nll"], "text without images is read as it was"
    stop_at(33, monkeypatch)
    assert not quiet_train(config, tmp_path / "parts")["finished"]
    quiet_train(config, tmp_path / "parts")
    rows = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("one", "parts")
    ]  # fmt: skip
    assert rows[0] == rows[1]
    one = flatten(jax.device_get(loading.load(f"{tmp_path}/one@last").params))
    assert {p for p in joined if not np.array_equal(joined[p], one[p])} == {p for p in joined if "projector/" in p}

    config = common(files.recipe(f"images/describe:all,images:{sources}/asked.jsonl"), 120)
    config.data.update(batch_size=16, length=24)
    config.init.from_, config.tune.method = str(tmp_path / "one"), "lora"
    config.tune.rates = (("projector/.*", 1.0), (".*/adapter/.*", 1.0), (".*", 0.0))
    found = quiet_train(config, tmp_path / "two")
    assert found["before"]["validation/nll"] == pytest.approx(after["validation/nll"], abs=1e-5)
    after = found["after"]
    assert after["validation/exact"] > 0.9 > 0.6 > after["validation/exact_other_images"]
    loaded = loading.load(str(tmp_path / "two"))
    shown = [np.load(sources / f"{n}.npy") for n in (0, 1, 2)]
    options = dict(max_new_tokens=6, sampling=decode.Sampling(temperature=0))
    measured = evaluate(loaded, split="validation")
    longer = evaluate(loaded, split="validation", length=30)
    assert longer["nll"] == pytest.approx(measured["nll"], rel=1e-5), "with more room for the same answers"
    asked = dict(objective="vision_lm", source=f"images:{sources}/asked.jsonl", split="validation", length=24)
    assert evaluate(loading.load(str(tmp_path / "joined")), **asked)["nll"] > measured["nll"], (
        "what has learned nothing yet"
    )
    with pytest.raises(UserError, match="--batch_size = 1: vision_lm measures each row with the image of another"):
        evaluate(loaded, split="validation", batch_size=1)
    again = common(text, 4)
    again.init.from_, again.tune.rates = str(tmp_path / "two"), (("(tower|projector)/.*", 0.0), (".*", 1.0))
    said = quiet_train(again, tmp_path / "text again")
    assert said["before"]["source/nll"] == pytest.approx(measured["nll"], rel=1e-5), "what is forgotten of images"
    assert measured["exact"] == after["validation/exact"]
    assert measured["nll_other_images"] == pytest.approx(after["validation/nll_other_images"], rel=1e-4)
    rows = generate(loaded, ["is it? "] * 3, images=shown, **options)
    assert [row.text for row in rows] == list(WORDS) and {row.reason for row in rows} == {"end"}
    assert rows == generate(loaded, ["is it? "] * 3, images=[f"{sources}/{n}.npy" for n in range(3)], **options)
    with pytest.raises(UserError, match="--image: 2 for 3 prompts"):
        generate(loaded, ["is it? "] * 3, images=shown[:2], **options)
    with pytest.raises(UserError, match="--image: the model reads texts alone"):
        generate(loading.load(parents[0]), ["a"], images=shown[:1], **options)
    with pytest.raises(UserError, match="--image=.*asked.jsonl: no image of a kind that is read"):
        generate(loaded, ["a"], images=[f"{sources}/asked.jsonl"], **options)
    with pytest.raises(UserError, match="the model reads images by a tower"):
        export.Exported(loaded.params, loaded.source.fields, loaded.tokenizer, loaded.source.lineage(""))


@pytest.mark.parametrize(
    "path,value,message",
    [
        ("data.source", "jsonl:{}/texts.jsonl", "the model reads images .*, and these are texts .text."),
        (
            "model.tower",
            (),
            "it learns texts of images, and the model is one of text alone .model.tower = .*; join a run",
        ),
        (
            "model.tower",
            (("layers", 1),),
            "expected pairs of settings of a model of images, among them max_length, layers",
        ),
        ("model.tower", (*TOWER, ("patch", 4)), "and none of 'patch'"),
        ("model.tower", (*TOWER, ("patch_size", 3)), "settings that go together: image_size = 8, expected a multiple"),
        ("model.tower_skip", 2, "config.model.tower_skip = 2: expected less than its 2 blocks"),
        ("model.projector_merge", 3, "config.model.projector_merge = 3: expected a number that divides 2"),
        ("data.length", 5, "config.data.length = 5: an image takes 4 positions of a row"),
        ("data.images", {"channels": 3}, "config.data.images.channels = 3: expected model.channels 1"),
        ("objective.name", "causal_lm", "these are images, and the model reads texts: .* objective.name='vision_lm'"),
        ("objective.name", "clip", "objective.name = 'clip': the model reads texts"),
    ],
)
def test_what_does_not_go_together(path, value, message, sources, tmp_path, cache):
    config = described(sources)
    section, _, name = path.partition(".")
    config[section].update({name: value.format(sources) if isinstance(value, str) else value})
    with pytest.raises(UserError, match=message):
        quiet_train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_recipes_are_made():
    config = files.recipe("images/describe:project,images:list.jsonl")
    assert config.data.source == "images:list.jsonl" and config.tune.rates == FROZEN
    assert not files.recipe("images/describe:all").tune.rates


def test_a_text_objective_does_not_decay_what_it_never_shows(sources, tmp_path, cache):
    config = described(sources)
    config.objective.name, config.data.source = "causal_lm", f"jsonl:{sources}/texts.jsonl"
    with pytest.raises(UserError, match=r"config.tune.rates: objective.name = 'causal_lm' gives the model no images"):
        quiet_train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.tune.rates = (("(tower|projector)/.*", 0.0), (".*", 1.0))
    assert not assembly.Run(config, tmp_path / "run", Reporter(quiet=True)).builder.pictured
