"""A run with a published model's tokenizer keeps all its files, and its child and its readers get them back."""

import pytest

from ptft_jax.data import chat
from ptft_jax.data import tokenizers as tok
from ptft_jax.evaluation.conversation import Conversation
from ptft_jax.model.decode import Sampling
from ptft_jax.runs import loading
from tests.data import kinds
from tests.helpers import quiet_train, tiny_config


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kinds.llama2, kinds.sentencepiece_bpe, kinds.tiktoken], ids=lambda kind: kind.__name__
)
def test_a_runs_tokenizer_is_the_one_it_was_given(kind, text_file, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    for name, data in kind().items():
        (folder / name).write_bytes(data)
    (folder / "chat_template.jinja").write_text(chat.BUILT_IN["chatml"])
    config = tiny_config(text_file, tokenizer__kind="file", tokenizer__path=str(folder), training__steps=2)
    config.model.max_length = 128
    quiet_train(config, tmp_path / "run")
    loaded = loading.load(str(tmp_path / "run"))
    given = tok.from_file(folder)
    assert loaded.tokenizer.files() == given.files() and tok.fingerprint(loaded.tokenizer) == tok.fingerprint(given)
    answer = Conversation(loaded, max_new_tokens=8, sampling=Sampling(temperature=0)).say("the cat")
    assert answer.tokens <= 8
    child = tiny_config(text_file, init__from_=str(tmp_path / "run"), training__steps=2, model__max_length=128)
    quiet_train(child, tmp_path / "child")
    assert tok.from_file(tmp_path / "child").files() == given.files()
