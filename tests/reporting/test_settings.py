"""In which settings runs differ."""

from ptft_jax.reporting.settings import differing


def test_settings_that_differ():
    one = {
        "seed": 0,
        "optimizer": {"warmup_steps": 20.0, "learning_rate": 1e-4},
        "eval": {"every": 40.0},
        "init": {"from_": ""},
    }
    two = {"seed": 0, "optimizer": {"warmup_steps": 20, "learning_rate": 3e-4}, "eval": {"every": 0.25}, "init": {}}
    assert differing({"one": one, "two": two}) == [
        {"setting": "optimizer.learning_rate", "one": "0.0001", "two": "0.0003"},
        {"setting": "eval.every", "one": "40", "two": "0.25"},
        {"setting": "init.from", "one": "''", "two": "-"},
    ]
