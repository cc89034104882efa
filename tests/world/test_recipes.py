"""The recipes of the world, in miniature: pre-training, and tuning on questions."""

import pytest

from ptft_jax.config import files
from ptft_jax.config.sources import SOURCES
from ptft_jax.data import tokenizers as tok
from ptft_jax.retrieval import index
from ptft_jax.retrieval.passages import Corpus
from ptft_jax.world.people import world
from tests.helpers import quiet_train


@pytest.mark.heavy
def test_pretraining_and_questions(cache, tmp_path):
    config = files.load("world/pretrain:20")
    config.model.update(layers=1, width=16, heads=2, max_length=512)
    less = {"biographies": "&exposures=2", "links": "&exposures=2"}
    config.data.mixture = tuple(
        (name + less.get(name.partition(":")[2].partition("?")[0], "&texts=60"), share)
        for name, share in config.data.mixture
    )
    config.training.steps, config.eval.every, config.eval.answers.records = 2, 0, 4
    summary = quiet_train(config, tmp_path / "base")
    assert "answers/exact" in summary["after"]
    config = files.load("world/questions:20")
    config.init.from_ = str(tmp_path / "base")
    config.training.steps, config.eval.every, config.eval.answers.records = 2, 0, 4
    summary = quiet_train(config, tmp_path / "questions")
    assert "validation/answers/exact" in summary["after"]
    passages = Corpus("world:passages?size=20&seed=1", "", 0, SOURCES)
    index.build(tmp_path / "other", "bm25", passages)
    config = files.load(f"world/reading:{tmp_path}/other,20")
    config.init.from_ = str(tmp_path / "base")
    config.data.length, config.training.steps, config.eval.every, config.eval.behavior.records = 512, 2, 0, 4
    summary = quiet_train(config, tmp_path / "reading")
    assert summary["after"]["behavior/retrieval/recall"] > 0


def test_words_are_tokens_and_bytes_spell_the_others(cache):
    texts = ["Anna likes Rome.", "Bob likes Rome.", "Bob likes \u00e9t\u00e9."]
    tokenizer = tok.train_words(texts, 262)
    # 256 bytes, the end, and five words by their count, then by name: " likes", " Rome", "Bob", "Anna", and what stands for " été".
    assert tokenizer.vocab_size == 262 and all(map(tokenizer.has, ("Anna", "Bob", "\u0120likes", "\u0120Rome")))
    assert [len(tokenizer.encode(text)) for text in ("Anna likes Rome.", "Bob likes Bob", "Ann")] == [4, 2 + 4, 3]
    for text in ("Zoe likes \u00e9t\u00e9s in Rome\n\n 1 2", *texts):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tok.train_words(texts, 1000).vocab_size == 262
    made = world()
    words = tok.train_words([f"{value} {value} {value}" for values in made.tables.values() for value in values], 4096)
    assert all(len(words.encode(f" {value}")) == 1 for values in made.tables.values() for value in values)
