"""Runs on images: the same trainer, checkpoints, methods and meshes as for text."""

import functools
import json

import jax
import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.adapters.lora import Lora
from ptft_jax.config import files
from ptft_jax.errors import UserError
from ptft_jax.evaluation import probes
from ptft_jax.evaluation.standalone import evaluate
from ptft_jax.interop import export
from ptft_jax.model import presets
from ptft_jax.objectives.classification import Classification
from ptft_jax.objectives.masked_images import MaskedImages
from ptft_jax.params import resizing
from ptft_jax.params.rules import flatten
from ptft_jax.runs import loading
from tests.helpers import EVERYTHING, TIMED, quiet_train, repeats, stop_at, train

MODEL = dict(causal=False, image_size=8, patch_size=4, max_length=5, channels=1)
SPEC = dict(**MODEL, vocab_size=8, kv_heads=0, layers=1, width=16, heads=2)
PIXELS = dict(head="pixels", positions="sine", decoder_layers=1, decoder_width=16, decoder_heads=2)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Three classes: which half of an image is bright, or none."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 80, (120, 8, 8))
    images[labels == 0, :4] += 150
    images[labels == 1, 4:] += 150
    path = tmp_path_factory.mktemp("arrays") / "halves.npz"
    np.savez(path, x=images.astype(np.uint8), y=labels)
    return path


def config_of(arrays, **model):
    config = configs.default()
    config.model.update(MODEL | dict(layers=1, width=16, heads=2, scan=False) | model)
    config.data.update(source=f"images:{arrays}", batch_size=8, prefetch=0)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=2)
    config.training.steps = 8
    config.eval.update(every=4, test=False, pictures=0)
    config.log.update(every=1, tensorboard=False)
    return config


def classes_of(arrays, **model):
    config = config_of(arrays, head="classes", classes=3, **model)
    config.objective.name = "classification"
    return config


def image_batch(seed, masked):
    rng = np.random.default_rng(seed)
    batch = {
        "inputs": rng.integers(0, 256, (16, 8, 8, 1)).astype(np.uint8),
        "weights": (np.arange(16) % 5 > 0).astype(np.float32),
    }
    if masked:
        return batch | {"visible": np.stack([rng.permutation(4)[:2] for _ in range(16)]).astype(np.int32)}
    share = rng.random(16).astype(np.float32)
    return batch | {
        "targets": rng.integers(0, 3, 16).astype(np.int32),
        "other": rng.integers(0, 3, 16).astype(np.int32),
        "share": share,
    }


class Measured(MaskedImages):
    """With a "nll", which helpers.train reads."""

    def loss_of(self, *args, **options):
        loss = super().loss_of(*args, **options)
        return loss._replace(metrics={"nll": loss.metrics["loss"], **loss.metrics})


WAYS = {
    "full": (Classification(label_smoothing=0.1), dict(head="classes", classes=3, pooling="mean")),
    "lora": (Classification(), dict(head="classes", classes=3, adapter=Lora(2, 4.0, False, 0.0, ("blocks/.*",)), rates=(("head/.*", 1.0), (".*/adapter/.*", 1.0), (".*", 0.0)))),
    "masked": (Measured(), PIXELS),
}  # fmt: skip


OTHERS = {"fsdp": dict(devices=8, fsdp=4, micro=2), "pmap": dict(devices=8, kind="pmap")}


@functools.cache
def trained(way, other=""):
    objective, options = WAYS[way]
    batches = [image_batch(n, way == "masked") for n in range(2)]
    options = {**SPEC, "rates": EVERYTHING, **options, "objective": objective, "batches": batches}
    return train(**options, **OTHERS.get(other, {}))


@pytest.mark.parametrize("case", repeats([f"{w} {o}" for w in WAYS for o in OTHERS], "full fsdp", "masked pmap"))
def test_meshes_and_micro_batches_change_nothing(case):
    way, other = case.split()
    alone, found = trained(way), trained(way, other)
    np.testing.assert_allclose(found.losses, alone.losses, rtol=2e-5)
    np.testing.assert_allclose(found.grad_norms, alone.grad_norms, rtol=2e-4)
    start, end = (flatten(found.partition.merge(s.trainable, s.frozen)) for s in (found.start, found.state))
    trains = {leaf.source for leaf in found.partition.leaves if leaf.trains}
    moved = {path for path in end if not np.array_equal(np.asarray(start[path]), np.asarray(end[path]))}
    assert moved == {path for path in end if path in trains}


@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(masked, arrays, tmp_path, cache, monkeypatch):
    config = config_of(arrays, **PIXELS) if masked else classes_of(arrays, dropout=0.1)
    if masked:
        config.objective.name, config.eval.pictures = "masked_images", 2
    config.data.augment.update(
        crop=0.5, flip=0.5, shift=1, erase=0.3, **({} if masked else {"mixup": 0.4, "cutmix": 1.0})
    )
    quiet_train(config, tmp_path / "whole")
    stop_at(5, monkeypatch)
    assert not quiet_train(config, tmp_path / "parts")["finished"]
    config.data.prefetch, config.data.workers = 2, 3
    quiet_train(config, tmp_path / "parts")
    rows = []
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines])
    assert rows[0] == rows[1] and len(rows[0]) >= 8
    if masked:  # the same images at every evaluation
        one, other = ((tmp_path / name / "pictures.jsonl").read_text() for name in ("whole", "parts"))
        shown = [json.loads(line) for line in one.splitlines()]
        assert one == other and [(row["kind"], row["step"]) for row in shown[::2]] == [
            *(("progress", step) for step in (0, 4, 8)),
            ("hidden", shown[-1]["step"]),
        ]
    one, other = (flatten(loading.load(f"{tmp_path}/{name}@last").params) for name in ("whole", "parts"))
    assert all(np.array_equal(one[path], other[path]) for path in one)


@pytest.mark.heavy
def test_two_stages(arrays, tmp_path, cache):
    """Masked pre-training, then classes: the decoder is dropped, the encoder is the parent's, halves are told apart, and a run that is
    loaded measures what was measured."""
    parent = config_of(arrays, **PIXELS)
    parent.objective.name = "masked_images"
    quiet_train(parent, tmp_path / "parent")
    child = configs.default()
    child.model.update(head="classes", classes=3, pooling="mean", scan=False)
    child.data.update(source=f"images:{arrays}", batch_size=8)
    child.objective.name, child.init.fresh, child.init.from_ = "classification", ("head/.*",), str(tmp_path / "parent")
    child.optimizer.update(learning_rate=1e-2, warmup_steps=2)
    child.training.steps = 150
    child.eval.update(every=150, parent_data=False, test=False, pictures=5)
    child.checkpoint.update(every=75, keep_latest=3)
    child.tune.layer_decay = 0.8
    child.log.tensorboard = False
    summary = quiet_train(child, tmp_path / "child")
    assert summary["after"]["validation/accuracy"] > 0.9 > summary["before"]["validation/accuracy"]
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "child/pictures.jsonl").read_text().splitlines()]
    assert kinds.count("example") == 5 and kinds.count("progress") == 0
    assert not (tmp_path / "parent/pictures.jsonl").exists()  # `eval.pictures` is 0
    loaded = loading.load(f"{tmp_path}/child")
    theirs, ours = (
        flatten(jax.device_get(loading.load(f"{tmp_path}/{name}").params)) for name in ("parent@last", "child@0")
    )
    assert {path for path in ours if path not in theirs} == {"head/classes/kernel", "head/classes/bias"}
    assert all(np.array_equal(theirs[path], a) for path, a in ours.items() if not path.startswith("head/"))
    assert loaded.source.fields["vocab_size"] == 0  # so that families of transformers can express it
    found = evaluate(loaded, split="validation")
    assert found["accuracy"] == pytest.approx(summary["after"]["validation/accuracy"])
    assert evaluate(loaded, f"images:{arrays}")["examples"] == 120


def test_recipes_are_made(cache):
    for name in ("images/vit", "images/mae", "images/mnist", "images/transfer", "images/contrast"):
        config = files.recipe(f"{name}:images:FOLDER")
        assert config.data.source == "images:FOLDER"


@pytest.mark.heavy
def test_another_size_than_the_parents(arrays, tmp_path, cache):
    """Images of 12 pixels in patches of 6: a run that starts so equals, at step 0, its parent's parameters resampled; what is frozen in it is
    found again when it is loaded, and a stopped run goes on."""
    parent = classes_of(arrays)
    quiet_train(parent, tmp_path / "parent")
    child = classes_of(arrays, image_size=12, patch_size=6)
    child.init.update(from_=str(tmp_path / "parent"), resize=True)
    child.tune.update(method="lora")
    child.eval.parent_data = False
    quiet_train(child, tmp_path / "child")
    theirs, ours = (flatten(loading.load(f"{tmp_path}/{name}").params) for name in ("parent@last", "child@last"))
    expected = resizing.patches(theirs["embed/patches/kernel"], 4, 6)
    np.testing.assert_allclose(ours["embed/patches/kernel"], expected, atol=1e-6)
    np.testing.assert_array_equal(
        ours["embed/positions/embedding"], theirs["embed/positions/embedding"]
    )  # as many patches
    child.init.resize = False
    with pytest.raises(UserError, match="model.image_size = 12, but the parent .* has 8; init.resize=True"):
        quiet_train(child, tmp_path / "other")


def test_what_does_not_go_together(arrays, tmp_path, cache):
    text = tmp_path / "x.jsonl"
    text.write_text("".join(json.dumps({"text": f"a {n}", "label": n % 3}) + "\n" for n in range(60)))
    for path, value, message in (
        (
            "data.source",
            f"jsonl:{text}",
            "the model reads images .model.image_size above 0, or a tower., and these are texts",
        ),
        ("model.image_size", 9, "config.model.image_size = 9: expected a multiple of model.patch_size 4"),
        ("model.classes", 2, "config.model.classes = 2: the data have 3 classes"),
        ("data.images", {"size": 7}, "config.data.images.size = 7: expected at least model.image_size 8"),
        ("data.length", 64, "config.data.length = 64: of images a row has model.max_length = 5 tokens"),
        ("tokenizer.add", ("[A]",), "config.tokenizer.add = .*: a model of images has no tokens"),
        ("model.causal", True, "expected model.causal=False"),
        ("model.pixel_std", (1.0, 2.0), "expected one number, or model.channels 1"),
        ("samples.prompts", ("a",), "config.samples.prompts: a model of objective.name='classification' names classes"),
        ("data.augment", {"mixup": -1.0}, "augment.mixup = -1.0: expected a value of 0 or more"),
    ):
        config = classes_of(arrays)
        section, _, name = path.partition(".")
        config[section].update({name: value})
        with pytest.raises(UserError, match=message):
            quiet_train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    config = classes_of(arrays)
    config.model.update(image_size=0, head="lm", causal=True, max_length=32)
    config.data.length, config.objective.name = 32, "causal_lm"
    with pytest.raises(UserError, match="these are images, and the model reads texts: set model.image_size"):
        quiet_train(config, tmp_path / "run")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """As `arrays`, with captions."""
    rng, folder, lines = np.random.default_rng(0), tmp_path_factory.mktemp("captioned"), []
    words = ("up", "down", "dark")
    for n in range(120):
        image = rng.integers(0, 80, (8, 8))
        image[: 4 if n % 3 == 0 else 0] += 150
        image[4 if n % 3 == 1 else 8 :] += 150
        np.save(folder / f"{n}.npy", image.astype(np.uint8))
        lines.append(json.dumps({"image": f"{n}.npy", "label": words[n % 3], "caption": f"it is {words[n % 3]}"}))
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


def captions_of(captioned, objective="clip"):
    towers = presets.family("clip") | MODEL | dict(text_layers=1, text_width=16, text_heads=2, text_length=12)
    config = config_of(captioned, **towers)
    config.model.update(vector_width=8, pair_bias=objective == "siglip", text_causal=objective == "clip")
    config.objective.name = objective
    return config


@pytest.mark.heavy
def test_images_and_captions(captioned, tmp_path, cache, monkeypatch):
    """A run that was stopped goes on to the same bits; classes are named by prompts as captions are found; it is written as CLIP, read again, and
    a child has its tower for images."""
    config = captions_of(captioned)
    config.training.steps, config.eval.every, config.data.batch_size = 60, 30, 16
    config.optimizer.update(learning_rate=2e-3, warmup_steps=10)  # at 1e-2 all vectors become one
    summary = quiet_train(config, tmp_path / "whole")
    stop_at(33, monkeypatch)
    assert not quiet_train(config, tmp_path / "parts")["finished"]
    quiet_train(config, tmp_path / "parts")
    one, other = (loading.load(f"{tmp_path}/{name}@last") for name in ("whole", "parts"))
    theirs = flatten(other.params)
    assert all(np.array_equal(array, theirs[path]) for path, array in flatten(one.params).items())
    after = summary["after"]
    assert after["validation/text_recall_1"] == after["validation/image_recall_1"] == 1
    assert summary["before"]["validation/text_recall_1"] < 0.9
    one = loading.load(f"{tmp_path}/whole")  # of prompts that are the captions, names are told as captions are found
    told = probes.evaluate(one, split="validation", probes=("prompts",), prompts=("it is {}",))
    assert told["probe/prompts"] == pytest.approx(after["validation/text_recall_1"])
    fields, chain = one.source.fields, one.source.lineage("")
    export.to_folder(export.Exported(one.params, fields, one.tokenizer, chain), tmp_path / "hf", dtype="float32")
    again = loading.load(f"hf:{tmp_path}/hf")
    assert probes.evaluate(again, f"images:{captioned}", "validation", probes=("prompts",), prompts=("it is {}",))[
        "probe/prompts"
    ] == pytest.approx(told["probe/prompts"])
    child = configs.default()
    child.model.update(head="classes", classes=3, pooling="mean", scan=False)
    child.data.update(source=f"images:{captioned}", batch_size=8)
    child.objective.name, child.init.fresh, child.init.from_ = "classification", ("head/.*",), str(tmp_path / "whole")
    child.training.steps, child.log.tensorboard = 4, False
    child.eval.update(every=0, parent_data=False, test=False, pictures=0)
    quiet_train(child, tmp_path / "child")
    assert loading.load(str(tmp_path / "child")).source.fields["vocab_size"] == 0


def test_what_does_not_go_with_captions(arrays, captioned, tmp_path, cache):
    for path, value, message in (
        ("training.micro_batches", 2, "micro_batches = 2: objective.name = 'clip' compares each row with all others"),
        ("parallel.compile", "pmap", "compile = 'pmap': objective.name = 'clip' compares each row with all others"),
        ("model.text_layers", 0, "no tower for texts .model.text_layers = 0."),
        ("model.pair_bias", True, "set model.pair_bias=False"),
        ("model.text_heads", 3, "model.text_width = 16: expected a multiple of model.text_heads 3"),
        ("data.source", f"images:{arrays}", "learns from captioned-images, not from labelled-images"),
        ("data.images", {"caption_length": 7}, "caption_length = 7: expected model.text_length 12"),
        ("tokenizer.add", ("[A]",), "a tower for texts has the vocabulary that it begins with"),
    ):
        config = captions_of(captioned)
        config.data.batch_size = 16  # which two parts on eight devices divide
        section, _, name = path.partition(".")
        config[section].update({name: value})
        with pytest.raises(UserError, match=message):
            quiet_train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()
