"""The config tree: what is wrong is named, before anything is compiled; what is declared is read."""

import json
import shutil

import numpy as np
import pytest

from ptft_jax import config as configs
from ptft_jax.config.sources import SOURCES
from ptft_jax.errors import UserError
from ptft_jax.reporting.progress import Reporter
from ptft_jax.retrieval import index
from ptft_jax.retrieval.passages import Corpus
from ptft_jax.training import assembly
from tests.helpers import quiet_train, tiny_config


def test_defaults_are_valid_and_unread_defaults_do_not_matter():
    section = configs.check(configs.default())
    section.refuse_unread()
    assert section.model.width == 128


@pytest.mark.parametrize(
    "given, words",
    [
        ({"modle": {}}, "config.modle is not a setting \\(did you mean 'model"),
        ({"optimizer": {"learning_rte": 1.0}}, "did you mean 'optimizer.learning_rate'"),
        ({"optimizer": {"name": "adam"}}, "config.optimizer.name = 'adam'.*did you mean 'adamw'"),
        ({"optimizer": {"learning_rate": "fast"}}, "config.optimizer.learning_rate = 'fast': expected float, got str"),
        ({"optimizer": {"learning_rate": -1.0}}, "expected a value of 0 or more"),
        ({"optimizer": {"learning_rate": float("nan")}}, "config.optimizer.learning_rate = nan"),
        ({"model": {"layers": True}}, "config.model.layers = True: expected int, got bool"),
        ({"model": {"layers": 2.5}}, "expected int, got float"),
        ({"model": {"dropout": 1.0}}, "from 0 to below 1"),
        ({"model": {"width": 100, "heads": 3}}, "config.model.width = 100: expected a multiple of model.heads 3"),
        ({"model": {"kv_heads": 3}}, "config.model.heads = 4: expected a multiple of model.kv_heads 3"),
        ({"model": {"positions": "rotary", "head_dim": 7}}, "an even head size, not 7"),
        ({"data": {"length": 256}}, "config.data.length = 256: expected at most model.max_length 128"),
        ({"training": {"micro_batches": 3}}, "a multiple of training.micro_batches 3"),
        ({"optimizer": {"warmup_steps": 2000}}, "at most training.steps 1000"),
        ({"parallel": {"compile": "pmap", "fsdp": 2}}, "parallel.fsdp=1"),
        ({"parallel": {"compile": "pmap", "tensor": 2}}, "parallel.tensor=1 \\(pmap copies the state\\), not 2"),
        ({"model": {"attention": "cudnn"}}, "model.dtype=bfloat16"),
        ({"model": 3}, "config.model = 3: expected a section"),
        ({"tune": {"rates": (("a", 1.0, 2),)}}, "is not a pair"),
        ({"samples": {"prompts": (1,)}}, "is not a text"),
        ({"tune": {"oft": {"targets": (1,)}}}, "config.tune.oft.targets: 1 is not a text"),
    ],
    ids=lambda v: str(v)[:50] if isinstance(v, dict) else "",
)
def test_bad_values_are_named(given, words):
    with pytest.raises(UserError, match=words):
        configs.check(given)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__momentum": 0.5},  # adamw has none
        {"tune__lora__rank": 4},  # method is full
        {"model__rope_theta": 5e5},  # positions are learned
        {"tokenizer__vocab_size": 500},  # bytes
        {"samples__temperature": 0.1},  # no prompts
        {"optimizer__decay_fraction": 0.5},  # cosine
        {"init__weights": "raw"},  # no parent
        {"eval__parent_data": False},
        {"data__temperature": 2.0},  # no mixture
        {"objective__mask_rate": 0.3},  # nothing is masked
    ],
    ids=str,
)
def test_a_setting_that_nothing_reads_is_an_error(text_file, tmp_path, changes):
    config = tiny_config(text_file, **changes)
    name = next(iter(changes)).replace("__", ".")
    with pytest.raises(UserError, match=f"config.{name} = .* nothing in this run reads it"):
        assembly.Run(config, tmp_path / "run", Reporter(quiet=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"method": "lora", "train": "head"}, "tune.train needs tune.method=full, and config.tune.method = 'lora'"),
        ({"method": "lora+prompt", "ia3": {"targets": ["x"]}}, "tune.ia3.targets needs tune.method=ia3, and"),
        ({"lora": {"rank": 2}}, "tune.lora.rank needs tune.method=lora, and config.tune.method = 'full'"),
    ],
)
def test_a_setting_of_another_way_of_tuning_names_the_way(changes, words):
    with pytest.raises(UserError, match=f"is set, but nothing in this run reads it: {words}"):
        section = configs.check({"tune": changes})
        _ = section.tune.method
        section.refuse_unread()


@pytest.mark.heavy
def test_every_declared_field_is_read_by_some_run(text_file, tmp_path, cache):
    """The fields read by runs that between them use every choice: none is left over."""
    quiet_train(tiny_config(text_file, training__steps=0, optimizer__warmup_steps=0), tmp_path / "parent")
    answers = tmp_path / "answers.jsonl"
    row = '{{"prompt": "ask {}", "completion": "{}", "tests": "assert made"}}\n'
    answers.write_text("".join(row.format(i, i % 2) for i in range(90)))
    questions, asked = tmp_path / "questions.jsonl", {"options": ["x", "y"], "date": "2024", "template": 1}
    rows = [
        {**asked, "question": f"{i}?", "answer": i % 2, "group": "ab"[i // 2 % 2], "paraphrase_of": i // 2}
        for i in range(8)
    ]
    read = {"passages": [{"n": 1, "gold": True, "stale": False}], "asked": "?", "hit": True, "rank": 1}
    rows += [{**asked, "question": "[1] ?", "answer": 0, "group": "a", "paraphrase_of": 0, **read}]
    rows += [{"question": "?", "kind": "unknown"}, {"prompt": "!", "kind": "harmful"}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    principles = tmp_path / "principles.json"
    checked = {"name": "a", "text": "b", "check": {"verifier": "regex", "least": 1, "settings": {"pattern": "c"}}}
    principles.write_text(json.dumps([checked]))
    passages = Corpus(f"text:{text_file}", "", 4, SOURCES)
    index.build(tmp_path / "passages", "bm25", passages, words=4)
    schema = tmp_path / "schema.json"
    schema.write_text("{}")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"prompt": "{i}", "chosen": "y", "rejected": "no"}}\n' for i in range(90)))
    rated = tmp_path / "rated.jsonl"
    rated.write_text("".join(f'{{"prompt": "{i}", "completion": "y", "label": true}}\n' for i in range(90)))
    reward = dict(objective__name="reward", data__source=f"jsonl:{pairs}", model__head="classes", model__classes=1)
    nothing = dict(training__steps=0, optimizer__warmup_steps=0)
    quiet_train(tiny_config(text_file, **reward, **nothing, eval__parent_data=False, init__from_=str(tmp_path / "parent"), init__fresh=("head/.*",)), tmp_path / "rewards")  # fmt: skip
    shutil.copytree(tmp_path / "rewards", tmp_path / "rewards2")
    steps = tmp_path / "steps.jsonl"
    steps.write_text(
        "".join(f'{{"prompt": "{i}", "completions": ["y", "n"], "labels": [true, false]}}\n' for i in range(90))
    )
    random = dict(objective__from_random=True)
    stepped = reward | random | dict(objective__name="process_reward", data__source=f"jsonl:{steps}")
    quiet_train(tiny_config(text_file, **stepped, **nothing), tmp_path / "steps")
    choices = [
        {"optimizer__name": "sgd", "optimizer__schedule": "wsd", "model__positions": "rotary"},
        {"optimizer__name": "muon", "samples__prompts": ("the",), "samples__max_new_tokens": 8},
        {"tokenizer__kind": "bpe", "tokenizer__vocab_size": 270, "optimizer__schedule": "linear"},
        {"tokenizer__kind": "file", "tokenizer__path": str(tmp_path / "parent")},
        {"init__from_": str(tmp_path / "parent"), "tune__method": "lora", "tune__quantize__format": "nf4"},
        {"init__from_": str(tmp_path / "parent"), "tune__method": "ia3", "eval__source": "stdlib:prose"},
        {"init__from_": str(tmp_path / "parent"), "tokenizer__add": ("<|user|>",)},
        {"model__mup_base_width": 16, "model__mup_base_head_dim": 8},
        {"checkpoint__local": str(tmp_path / "disk"), "checkpoint__local_every": 1},
        {
            "model__gated": True,
            "model__experts": 2,
            "model__router_bias": True,
            "model__biases": (),
            "model__remat": "full",
            "model__remat_layers": 1,
        },
        {"init__from_": str(tmp_path / "parent"), "tune__method": "prompt", "data__length": 8},
        {
            "init__from_": str(tmp_path / "parent"),
            "tune__method": "bottleneck+prefix+prompt",
            "tune__bottleneck__size": 8,
            "tune__prefix__length": 2,
            "tune__prompt__init": "text",
            "tune__prompt__text": "the",
            "data__length": 8,
        },
        {
            "init__from_": str(tmp_path / "parent"),
            "tune__method": "gated_prefix+p_tuning",
            "data__length": 8,
        },
        {"init__from_": str(tmp_path / "parent"), "tune__method": "adalora", "tune__smooth__method": "r3f"},
        {
            "init__from_": str(tmp_path / "parent"),
            "tune__method": "retro",
            "tune__retro__heads": 2,
            "data__neighbors__index": str(tmp_path / "passages"),
            "data__neighbors__chunk": 8,
            "data__neighbors__length": 32,
        },
        {
            "init__from_": str(tmp_path / "parent"),
            "tune__method": "vera+oft",
            "tune__vera__targets": ("blocks/mlp/up",),
            "tune__oft__targets": ("blocks/mlp/down",),
        },
        {
            "init__from_": str(tmp_path / "parent"),
            "tune__method": "shira+miss+gralora+hira+bd_lora+osf",
            "tune__shira__targets": ("blocks/mlp/up",),
            "tune__miss__targets": ("blocks/mlp/down",),
            "tune__gralora__targets": ("blocks/attention/query",),
            "tune__hira__targets": ("blocks/attention/key",),
            "tune__bd_lora__targets": ("blocks/attention/value",),
            "tune__osf__targets": ("blocks/attention/out",),
        },
        {
            "init__from_": str(tmp_path / "parent"),
            "optimizer__schedule": "slanted_triangular",
            "optimizer__warmup_steps": 0,
            "tune__ewc__weight": 1.0,
            "tune__distill__weight": 1.0,
            "tune__mixout__rate": 0.5,
            "tune__smooth__method": "smart",
            "tune__smooth__bregman": 0.1,
            "training__ema_decay": 0.5,
            "select__source_budget": 0.5,
        },
        {"data__mixture": ((f"text:{text_file}", 2.0), ("stdlib:prose", 1.0))},
        {"data__source": f"jsonl:{answers}"},
        {"objective__name": "masked_lm", "model__causal": False, "tokenizer__add": ("[MASK]",)},
        {
            "objective__name": "classification",
            "data__source": f"jsonl:{answers}?format=classification&text=prompt&label=completion&classes=0,1",
            "model__causal": False,
            "model__head": "classes",
            "model__classes": 2,
        },
        {
            "data__source": f"jsonl:{answers}",
            "eval__answers__verifiers": (
                "exact",
                "f1",
                "regex",
                "number",
                "json_schema",
                "program",
                "reward_model",
                "ensemble",
                "process_reward",
                "judge",
                "principles",
                "combined",
                "own",
            ),
            "plugins": ("tests.rewards.given",),
            "rewards__principles__file": str(principles),
            "rewards__process_reward__run": str(tmp_path / "steps"),
            "rewards__ensemble__runs": (f"{tmp_path}/rewards", f"{tmp_path}/rewards2"),
            "rewards__reward_model__run": str(tmp_path / "rewards"),
            "rewards__judge__run": str(tmp_path / "parent"),
            "rewards__judge__rubric": "{answer}",
            "rewards__judge__scale": (("1", 1.0), ("2", 2.0)),
            "rewards__program__tests": "tests",
            "eval__answers__temperature": 1.0,
            "eval__answers__max_new_tokens": 4,
            "rewards__regex__pattern": "[0-9]",
            "rewards__json_schema__schema": str(schema),
            "rewards__combined__parts": (("exact", 1.0),),
        },
        {
            "data__source": f"jsonl:{answers}",
            "model__max_length": 64,
            "eval__behavior__source": f"jsonl:{questions}",
            "eval__behavior__tasks": (
                "extraction",
                "known",
                "calibration",
                "dates",
                "paraphrases",
                "groups",
                "styles",
                "retrieval",
                "probe",
            ),
            "eval__behavior__max_new_tokens": 4,
        },
        {"objective__name": "span_corruption", "tokenizer__add": tuple(f"<extra_id_{i}>" for i in range(4))},
        reward | random,
        {
            "objective__name": "distill",
            "objective__distill__divergence": "jensen_shannon",
            "objective__distill__teacher": str(tmp_path / "parent"),
        },
        {
            "objective__name": "dpo",
            "objective__preference__divergence": "alpha",
            "init__from_": str(tmp_path / "parent"),
            "data__source": f"jsonl:{pairs}",
        },
        {
            "objective__name": "grpo",
            "objective__policy__from_random": True,
            "objective__policy__verifiers": ("exact",),
            "objective__policy__max_new_tokens": 4,
            "data__source": f"jsonl:{answers}",
        },
        {
            "objective__name": "rloo",
            "objective__policy__verifiers": ("exact",),
            "plugins": ("tests.tools.given",),
            "tools__use": ("calculator", "unruly"),
            "tools__form": "json",
            "objective__policy__max_new_tokens": 4,
            "objective__policy__kl": 0.1,
            "objective__policy__updates": 2,
            "init__from_": str(tmp_path / "parent"),
            "data__source": f"jsonl:{answers}",
        },
        {
            "objective__name": "ppo",
            "objective__policy__verifiers": ("exact",),
            "objective__policy__max_new_tokens": 4,
            "objective__policy__updates": 2,
            "init__from_": str(tmp_path / "parent"),
            "data__source": f"jsonl:{answers}",
        },
        {
            "objective__name": "expert_iteration",
            "objective__policy__from_random": True,
            "objective__policy__verifiers": ("exact",),
            "objective__policy__max_new_tokens": 4,
            "data__source": f"jsonl:{answers}",
        },
        {
            "objective__name": "gkd",
            "objective__policy__from_random": True,
            "objective__policy__max_new_tokens": 4,
            "objective__distill__teacher": str(tmp_path / "parent"),
            "data__source": f"jsonl:{answers}",
        },
        {
            "objective__name": "sdft",
            "objective__policy__max_new_tokens": 4,
            "objective__on_policy__demonstration": "{answer} {prompt}",
            "init__from_": str(tmp_path / "parent"),
            "data__source": f"jsonl:{answers}",
        },
        {"objective__name": "contrastive", "data__source": f"jsonl:{answers}"},
        {"objective__name": "unlikelihood", "data__source": f"jsonl:{rated}"},
        {
            "objective__name": "kto",
            "init__from_": str(tmp_path / "parent"),
            "data__source": f"jsonl:{rated}",
        },
        {
            "objective__name": "simpo",
            "objective__preference__from_random": True,
            "data__source": f"jsonl:{pairs}",
        },
    ]
    images = tmp_path / "images.npz"
    np.savez(images, x=np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8), y=np.arange(60) % 3)
    seen = {
        "data__source": f"images:{images}",
        "model__causal": False,
        "model__image_size": 8,
        "model__patch_size": 4,
        "model__max_length": 5,
        "data__length": 128,
        "model__channels": 1,
        "data__augment__operations": 1,
        "data__augment__crop": 0.5,
    }
    choices += [
        seen
        | {
            "objective__name": "classification",
            "model__head": "classes",
            "model__classes": 3,
            "data__augment__mixup": 0.5,
        },
        seen | {"objective__name": "masked_images", "model__head": "pixels", "model__positions": "sine"},
        seen
        | {
            "objective__name": "siglip",
            "model__head": "vector",
            "model__text_layers": 1,
            "model__pair_bias": True,
            "data__source": "images:letters?draws=1",
        },
        {
            "objective__name": "vision_lm",
            "data__source": "images:letters?draws=1",
            "data__length": 48,
            "model__max_length": 48,
            "model__tower": (
                *(("max_length", 5), ("layers", 1), ("width", 8), ("heads", 1), ("causal", False), ("channels", 1)),
                *(("image_size", 28), ("patch_size", 14)),
            ),
        },
    ]
    read: set[str] = set()
    # Of models that no objective here trains yet, but that are imported and run: tests/interop/test_families.py.
    read |= {f"model.{name}" for name in ("classes", "class_hidden", "patch_size", "channels", "distillation")}
    for number, changes in enumerate(choices):
        run = assembly.Run(tiny_config(text_file, **changes), tmp_path / str(number), Reporter(quiet=True))
        read |= run.config._read
    assert {path for path, _ in configs.fields()} == read


def test_from_may_be_spelled_as_the_issue_spells_it():
    assert configs.check({"init": {"from": "x"}}).init.from_ == "x"
