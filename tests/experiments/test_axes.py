"""Points of axes: products, what varies together, what is drawn, what depends on another."""

import math

import pytest

from ptft_jax import config as configs
from ptft_jax.errors import UserError
from ptft_jax.experiments.axes import choice, grid, loguniform, points, sampled, uniform, zipped
from ptft_jax.experiments.axis_words import parse

CONFIG = configs.check({}, complete=False).as_dict()
RATE, RANK, METHOD = "optimizer.learning_rate", "tune.lora.rank", "tune.method"


def found(*texts, **options):
    return points([parse(text) for text in texts], CONFIG, **options)


@pytest.mark.parametrize(
    "texts,expected",
    [
        ([f"{RATE}=1e-4,3e-4"], [{RATE: 1e-4}, {RATE: 3e-4}]),
        ([f"{RATE}=1", f"{RANK}=2,4"], [{RATE: 1.0, RANK: 2}, {RATE: 1.0, RANK: 4}]),
        ([f"{RATE},{RANK}=(1e-4,2),(3e-4,4)"], [{RATE: 1e-4, RANK: 2}, {RATE: 3e-4, RANK: 4}]),
        # of what has no rank, one point; the axis may stand before what it asks for
        (
            [f"{RANK}=2,4 if {METHOD}=lora", f"{METHOD}=full,lora"],
            [{METHOD: "full"}, {RANK: 2, METHOD: "lora"}, {RANK: 4, METHOD: "lora"}],
        ),
        ([f"{RANK}=2,4 if {METHOD}=lora"], [{}]),  # as the config has it
        ([f"{RANK}=2,4 if {METHOD}=full,lora and seed=0"], [{RANK: 2}, {RANK: 4}]),
        # one field by another range, where another method needs it
        (
            [f"{METHOD}=full,lora", f"{RATE}=1e-3 if {METHOD}=full", f"{RATE}=1e-2 if {METHOD}=lora"],
            [{METHOD: "full", RATE: 1e-3}, {METHOD: "lora", RATE: 1e-2}],
        ),
        (["model.scan=true,False"], [{"model.scan": True}, {"model.scan": False}]),
        (["init.from=runs/a,runs/b"], [{"init.from_": "runs/a"}, {"init.from_": "runs/b"}]),
        (
            ["data.mixture=(('text:a',1.0),),(('text:b',1.0),('text:c',2.0))"],
            [{"data.mixture": (("text:a", 1.0),)}, {"data.mixture": (("text:b", 1.0), ("text:c", 2.0))}],
        ),
        ([f"{RATE}=1e-4,1e-4"], [{RATE: 1e-4}]),
        (["samples.prompts=('this and that if',)"], [{"samples.prompts": ("this and that if",)}]),
    ],
)
def test_points(texts, expected):
    made = found(*texts)
    assert made == expected and [list(point) for point in made] == [list(point) for point in expected]


def test_the_same_from_python():
    axes = [grid(METHOD, "full", "lora"), zipped([RATE, "seed"], (1e-4, 2)), grid(RANK, 2, 4).when(METHOD, "lora")]
    with pytest.raises(UserError, match="--seeds"):
        points(axes, CONFIG)
    made = points([axes[0], grid(f"config.{RATE}", 1e-4), axes[2]], CONFIG)
    assert made == found(f"{METHOD}=full,lora", f"{RATE}=1e-4", f"{RANK}=2,4 if {METHOD}=lora")


def test_draws_are_as_likely_as_they_say():
    drawn = [point[RATE] for point in found(f"{RATE}=loguniform(1e-4,1e-2)", samples=400)]
    assert all(1e-4 <= value <= 1e-2 for value in drawn) and len(set(drawn)) > 300
    logs = [math.log10(value) for value in drawn]
    # a uniform law from -4 to -2: mean -3, deviation 2/sqrt(12); of 400, the mean's own is 0.029
    assert abs(sum(logs) / len(logs) + 3) < 0.12
    ranks = [point[RANK] for point in found(f"{RANK}=loguniform(4,64)", samples=200)]
    assert all(type(rank) is int and 4 <= rank <= 64 for rank in ranks)
    assert {point[METHOD] for point in found(f"{METHOD}=choice(full,lora)", samples=20)} == {"full", "lora"}
    flat = [point["model.dropout"] for point in points([uniform("model.dropout", 0.0, 0.5)], CONFIG, samples=200)]
    assert abs(sum(flat) / len(flat) - 0.25) < 0.04  # its own deviation is 0.01


def test_whole_numbers_at_the_ends_are_drawn_as_often():
    drawn = [points([uniform("model.layers", 1, 3)], CONFIG, seed=n)[0]["model.layers"] for n in range(600)]
    # a third each: 200, whose own deviation is 11.5
    assert all(abs(drawn.count(n) - 200) < 50 for n in (1, 2, 3))
    drawn = [points([loguniform("model.layers", 1, 3)], CONFIG, seed=n)[0]["model.layers"] for n in range(600)]
    # of the logarithms from 1 to 4, those up to 2 are half, and those from 3 on 1 - log(3)/log(4) = 0.208
    assert abs(drawn.count(1) - 300) < 55 and abs(drawn.count(3) - 125) < 45


def test_samples_that_are_as_others_are_counted():
    made, repeats = sampled([choice(METHOD, "full", "lora")], CONFIG, samples=8)
    assert len(made) == 2 and repeats == 6


def test_what_is_drawn_stays_when_more_is_asked_for():
    few = found(f"{RATE}=loguniform(1e-4,1e-2)", samples=2)
    more = found(f"{RATE}=loguniform(1e-4,1e-2)", samples=5)
    assert more[:2] == few and found(f"{RATE}=loguniform(1e-4,1e-2)", samples=2, seed=1) != few
    beside = found(f"{METHOD}=full,lora", f"{RATE}=loguniform(1e-4,1e-2)", samples=2)
    assert [point[RATE] for point in beside if point[METHOD] == "full"] == [point[RATE] for point in few]


@pytest.mark.parametrize(
    "texts,words",
    [
        (["optimizer.learning_rat=1"], "optimizer.learning_rat is not a setting.*optimizer.learning_rate"),
        (["learning_rate=1"], "optimizer.learning_rate"),
        ([f"{RATE}="], "no value: an empty grid"),
        ([f"{RATE}"], "expected FIELD=VALUE"),
        ([f"{RATE}=fast"], "config.optimizer.learning_rate = 'fast': expected float"),
        ([f"{RANK}=1.5"], "expected int"),
        ([f"{RATE}=-1"], "config.optimizer.learning_rate = -1"),
        (["optimizer.schedule=cosin"], "did you mean 'cosine'"),
        ([f"{RATE}=1", f"{RATE}=2"], "is varied twice"),
        ([f"{RATE},{RATE}=(1,2)"], "is varied twice"),
        ([f"{RANK}=2 if seed=0", f"{RANK}=4 if {METHOD}=full"], "varied twice where tune.lora.rank=2"),
        (["training.micro_batches=1,2"], "how a run is carried out"),
        ([f"{RATE}=loguniform(0,1)"], "above 0"),
        ([f"{RATE}=uniform(2,1)"], "the least before the largest"),
        ([f"{RATE}=uniform(1)"], "two numbers"),
        ([f"{RATE}=loguniform(a,b)"], "two numbers"),
        ([f"{METHOD}=uniform(1,2)"], "draws numbers"),
        ([f"{RATE},{RANK}=(1,2,3)"], "expected 2 values"),
        ([f"{RATE},{RANK}=1,2"], r"expected \(VALUE,VALUE\)"),
        ([f"{RATE}=1 if tune.methd=lora"], "tune.methd is not a setting"),
        ([f"{RATE}=1 if {METHOD}"], "expected FIELD=VALUE"),
        ([f"{RATE}=1 if {RANK}=2", f"{RANK}=2 if {RATE}=1"], "waits"),
        (["seed=1,2"], "--seeds"),
    ],
)
def test_bad_axes_are_named(texts, words):
    with pytest.raises(UserError, match=words) as error:
        found(*texts)
    assert "--axis" in str(error.value)
