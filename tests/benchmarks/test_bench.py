"""`ptft bench`: turns, what is void, what a call keeps, and its command as docs/benchmarks.md has it."""

import contextlib
import dataclasses
import json
import re
import shlex
import sys

import numpy as np
import pytest

from benchmarks import bench, cases, gpu, growth, image_input, page, peers, preferences, training, turns
from ptft_jax.errors import UserError
from tests.processes import HURRY, ROOT, run


def test_sides_take_turns_and_none_is_always_first():
    called = []
    sides = {name: lambda name=name: called.append(name) for name in "ab"}
    found = turns.alternate(sides, seconds=0.0, least=0.0, rounds=(3, 9))
    assert called == [*"ab", *"ab", *"ba", *"ab"], "once to see how long they take"
    assert {name: len(row) for name, row in found.items()} == {"a": 3, "b": 3}
    assert turns.summary({"a": [3.0, 1.0, 2.0]})["a"] == {"seconds": 2.0, "low": 1.0, "high": 3.0}


def side(logits):
    return peers.Side(lambda: None, float, np.array(logits))


@pytest.mark.parametrize(
    "logits, losses, holds",
    [
        ([1.0, 2.0], [4.0, 3.0], True),
        ([1.0, 2.0005], [4.0, 3.002], True),
        ([1.0, 2.1], [4.0, 3.0], False),
        ([1.0, 2.0], [4.0, 3.1], False),
        ([1.0, float("nan")], [4.0, 3.0], False),
        ([1.0, 2.0], [4.0, float("nan")], False),
    ],
)
def test_a_peer_that_computes_something_else_is_void(logits, losses, holds):
    found = training.differences(side(logits), side([1.0, 2.0]), {"scanned": [4.0, 3.0], "x": losses}, "x")
    assert found["holds"] is holds


def test_absent_peers_are_said(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name in ("peft", "trl") else name)
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    found = {name: peers.absent(case) for name, case in cases.cpu().items()}
    compiler = "torch.compile needs a C++ compiler, and none is here"
    assert found["4x128"] == {"PyTorch, compiled": compiler}
    assert found["smollm2-full"] == {
        "transformers, compiled": compiler,
        "TRL SFTTrainer": "the package trl is not installed: pip install 'ptft_jax[bench]'",
    }
    assert found["vit-s16-224"] == {"transformers, compiled": compiler, "timm, compiled": compiler}
    lora = found["smollm2-lora"]
    assert set(lora) == {"PEFT", "PEFT, compiled", "transformers Trainer", "TRL SFTTrainer"}
    assert all(why == "the package peft is not installed: pip install 'ptft_jax[bench]'" for why in lora.values())


def test_a_case_that_there_is_not():
    with pytest.raises(UserError, match="no case '4x129' \\(did you mean '4x128'\\?\\); there are 4x128, "):
        bench.run(["4x129"], ROOT / "nowhere", small=True, quality="", say=print)
    assert not (ROOT / "nowhere").exists()


def test_the_page_is_that_of_the_figures():
    """docs/benchmarks.md was not edited by hand: `make bench` would overwrite it."""
    text, figures = page.render(json.loads((ROOT / "docs/benchmarks.json").read_text()))
    assert (ROOT / "docs/benchmarks.md").read_text() == text
    assert {f"benchmarks-{name}.svg" for name in figures} == {
        p.name for p in (ROOT / "docs/figures").glob("benchmarks-*")
    }


def test_how_fast_images_are_read(monkeypatch):
    """At toy size; without the peers, which tests do not import."""
    pytest.importorskip("PIL")
    monkeypatch.setattr(image_input.peers, "lacks", lambda needs: "" if needs == ("PIL",) else "not here")
    found = image_input.measure(tiny=True) | {"machine": {}, "load": [0, 0], "tiny": True}
    assert found["images"].keys() == set(image_input.OURS) and found["absent"].keys() == set(image_input.THEIRS)
    assert all(0 < row["low"] <= row["seconds"] <= row["high"] for row in found["images"].values())
    assert "images per second" in page.line(found)
    step = {"sides": {"scanned": {"seconds": 4.0}, "unrolled": {"seconds": 3.0}}, "case": {"rows": 2}}
    seen = {"images": {image_input.OURS[0]: {"seconds": 0.3}, "torchvision": {"seconds": 0.6}}, "absent": {"x": "why"}}
    text = "\n".join(page._images({"image-input": seen, "vit-s16-224": step}))
    assert "| ptft_jax, first pass | 3 | 2.00 | 20.0% |" in text and "| torchvision | 2 | 1.00 | 40.0% |" in text
    assert "- x was not measured: why." in text


@pytest.mark.heavy
def test_the_command_of_the_page(tmp_path):
    [block] = re.findall(r"^```sh\n(.*)\n```$", (ROOT / "docs/benchmarks.md").read_text(), re.MULTILINE)
    words = shlex.split(block)[1:]
    nowhere = str(tmp_path / "bin")  # no compiler, which torch.compile would keep busy for a minute
    command = [sys.executable, "-m", "ptft_jax.cli", *words[:-1], f"--out={tmp_path / 'out'}"]
    done = run(*command, XLA_FLAGS=HURRY, PATH=nowhere)
    assert done.returncode == 0 and f"page: {tmp_path / 'out/benchmarks.md'}" in done.stdout, done.stderr
    found = json.loads((tmp_path / "out/benchmarks.json").read_text())
    case, growth = found["4x128"], found["growth-width"]
    assert set(case["sides"]) | set(case["absent"]) == {"scanned", "unrolled", "PyTorch", "PyTorch, compiled"}
    assert case["void"] == [] and all(row["low"] <= row["seconds"] <= row["high"] for row in case["sides"].values())
    assert [p["x"] for p in growth["points"]["scanned"]] == [64, 128]
    assert growth["points"]["scanned"][1]["parameters"] > growth["points"]["scanned"][0]["parameters"]
    assert "PyTorch, compiled was not measured: " in (tmp_path / "out/benchmarks.md").read_text()


@pytest.mark.live
@pytest.mark.parametrize("name", ["4x128", "smollm2-lora", "smollm2-full", "vit-4x28", "vit-s16-224"])
def test_peers_compute_the_same(name, monkeypatch):
    """Plain PyTorch, transformers, its Trainer, PEFT, TRL and timm from our weights, over some steps of training."""
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)  # compiling them takes a minute
    found = training.measure(cases.tiny(cases.cpu()[name]), seconds=0.1)
    assert found["void"] == [] and found["best"] and set(found["ratios"]) == {"scanned", "unrolled"}
    absent = {side: why for side, why in found["absent"].items() if not side.startswith("timm")}  # an extra's
    assert all("C++ compiler" in why for why in absent.values()), absent
    others = {"4x128": {"PyTorch"}, "vit-4x28": {"transformers"}, "vit-s16-224": {"transformers"}}
    assert len(found["sides"].keys() - {"timm"}) == 2 + len(others.get(name, range(3)))


@pytest.mark.live
@pytest.mark.parametrize("name", ["124M", "1B LoRA", "8B LoRA"])
def test_peers_on_a_gpu_compute_the_same(name):
    """What is checked before their time is taken, of each kind of model: GPT, and Llama with adapters and a tied or an own head."""
    assert gpu.checked(cases.gpu()[name])["holds"]


@pytest.mark.live
def test_pairs_beside_trl():
    """The losses of DPO's first steps are those of TRL's trainer, which `beside` looks at."""
    found = preferences.beside(cases.tiny(preferences.CASE), seconds=0.1)
    assert found["losses"]["TRL"][0] == pytest.approx(np.log(2), abs=1e-6) and set(found["sides"]) == {"ours", "TRL"}


@pytest.mark.heavy
def test_dpo_takes_little_more_memory_than_fine_tuning():
    """Of the compiled step, with the reference's logits for some positions at a time; of a large vocabulary they weigh more than that without."""
    shape = dict(vocab=8192, length=512, layers=4, width=256, heads=4)
    found = preferences.memory(dataclasses.replace(preferences.CASE, shape=shape, model={}, rows=1))
    whole = {name: sum(told.values()) for name, told in found.items()}
    assert whole["DPO, 64 positions at a time"] < 1.1 * whole["fine-tuning, 64 positions at a time"]
    assert whole["DPO"] > 1.1 * whole["fine-tuning"]


def test_compiling_is_measured_without_the_cache(tmp_path):
    """JAX says itself (an event) when it takes a program from its cache."""
    import jax
    from jax import monitoring
    from jax.experimental.compilation_cache import compilation_cache

    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")
    kept = {name: getattr(jax.config, name) for name in names}
    hits = []
    monitoring.register_event_listener(listener := lambda event, **_: hits.append(event))
    try:
        for name, value in zip(names, (str(tmp_path), 0.0, True), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        found = []
        for within in (contextlib.nullcontext, contextlib.nullcontext, growth.uncached):
            hits.clear()
            with within():
                jax.jit(lambda x: x * 3 + 1).lower(1.0).compile()
            found.append("/jax/compilation_cache/cache_hits" in hits)
    finally:
        monitoring.unregister_event_listener(listener)
        for name, value in kept.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert found == [False, True, False]
