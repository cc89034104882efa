"""Folders of shards: every record accounted for, the same whoever does the work, there as a whole or not at all."""

import dataclasses
import hashlib
import json
import pathlib
import random
import re
import shutil
import signal
import sys

import numpy as np
import pytest

from ptft_jax.data import formats, store, store_writer, token_folder, tokenize
from ptft_jax.data import tokenizers as tok
from ptft_jax.data.prepare import engines, gathering, shard_writing
from ptft_jax.data.prepare.chunks import MOST, Chunk
from ptft_jax.data.prepare.chunks import work as do
from ptft_jax.data.prepare.minhash import Near
from ptft_jax.data.prepare.settings import Settings, quality_limits
from ptft_jax.errors import UserError
from tests.data.records import sides
from tests.processes import ptft, run

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = engines.Processes(1)
BYTES = tok.ByteTokenizer()
SURE = Near(0.7, 2, bands=100, rows=1)


def text(seed, words=20):
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(draw.choices(letters, k=draw.randint(3, 7))) for _ in range(words))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files(folder):
    """Every file of a folder and the digest of its content."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture
def corpus(tmp_path, cache):
    """Two sources with splits of their own, and every kind of loss. The train split of the first, line by line."""
    good = [text(n) for n in range(8)]
    lines = [
        good[0],
        "tiny",  # min_characters
        good[1] + " " + text(90, 200),  # max_tokens
        good[2],
        "# " * 60,  # quality
        good[2] + "\n ",  # duplicate, but for white space
        good[3],
        good[3].replace(good[3].split()[9], "other"),  # near-duplicate
        good[4],  # leak: equal to a validation record
        good[5].upper(),  # leak: near a test record
        f"{text(91)} {' '.join(text(70).split()[3:17])}",  # overlap
        good[6],
    ]
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        folder.mkdir()
    train = write(a / "train.jsonl", [{"text": x} for x in lines])
    train.write_text(train.read_text() + '{"text": broken\n')
    write(a / "validation.jsonl", [{"text": good[4]}, {"text": "tiny"}, {"text": text(70)}])
    write(a / "test.jsonl", [{"text": f"{good[5]} end"}, {"text": text(51)}])
    write(b / "train.jsonl", [{"text": x} for x in (good[6], good[7], "tiny", text(60), text(61))])
    write(b / "validation.jsonl", [{"text": text(52)}])
    write(b / "test.jsonl", [{"text": text(53)}])
    evaluation = write(tmp_path / "evaluation.jsonl", [{"text": text(70)}, *({"text": text(n)} for n in range(71, 82))])
    return Settings(
        sources=tuple(f"jsonl:{f}/train.jsonl?validation={f}/validation.jsonl&test={f}/test.jsonl" for f in (a, b)),
        broken="skip",
        shards=2,
        min_characters=10,
        max_tokens=1000,
        quality=quality_limits("basic", ""),
        deduplicate="near",
        near=SURE,
        overlap_with=(f"jsonl:{evaluation}",),
    )


@pytest.fixture
def whole(corpus, tmp_path):
    """The corpus, prepared by this process."""
    manifest, there = shard_writing.prepare(corpus, BYTES, tmp_path / "whole", HERE)
    assert not there
    return manifest, tmp_path / "whole"


def lost(source):
    return {name: x["records"] for name, x in source["lost"].items()}


def test_every_record_is_kept_or_lost_for_a_named_reason(whole):
    manifest, _ = whole
    first, second = manifest["splits"]["train"]["sources"]
    assert lost(first) == {
        "broken": 1, "min_characters": 1, "max_tokens": 1, "quality.word_length_min": 1, "overlap": 1,
        "leak": 2, "duplicate": 1, "near_duplicate": 1,
    }  # fmt: skip
    assert lost(second) == {"min_characters": 1, "duplicate": 1}
    assert (first["records"], first["kept"]["records"], first["first"]) == (13, 4, 0)
    assert (second["records"], second["kept"]["records"], second["first"]) == (5, 3, 12)
    for split in manifest["splits"].values():
        for source in split["sources"]:
            assert source["records"] == source["kept"]["records"] + sum(lost(source).values())
        kept = sum(source["kept"]["records"] for source in split["sources"])
        assert kept == sum(shard["examples"] for shard in split["contents"].values())
        tokens = sum(source["kept"]["tokens"] for source in split["sources"])
        assert tokens == sum(shard["tokens"] for shard in split["contents"].values())
    assert lost(manifest["splits"]["validation"]["sources"][0]) == {"min_characters": 1}, "filters hold there too"
    assert lost(manifest["splits"]["test"]["sources"][0]) == {}


@pytest.mark.parametrize(
    ("reason", "line", "why"),
    [
        ("min_characters", 2, "4 characters, fewer than 10"),
        ("quality.word_length_min", 5, "mean characters of a word: 1, below 3"),
        ("duplicate", 6, "equal to .*train.jsonl, line 4"),
        ("near_duplicate", 8, r"similar \(0.81\) to .*train.jsonl, line 7"),
        ("leak", 9, r"similar \(1.00\) to .*validation.jsonl, line 1"),
        ("leak", 10, r"similar \(0.95\) to .*test.jsonl, line 1"),
        ("overlap", 11, "a run of words from word 21 on is in an evaluation text"),
        ("broken", 13, "not JSON"),
    ],
)
def test_losses_are_listed_with_their_place_and_reason(whole, reason, line, why):
    examples = whole[0]["splits"]["train"]["sources"][0]["lost"][reason]["examples"]
    assert any(re.search(rf"train.jsonl, line {line}[:,] .*{why}", x) for x in examples), examples


def test_shards_hold_what_was_kept_in_order(whole, corpus):
    manifest, folder = whole
    tokenizer = tok.from_file(folder)
    assert tok.fingerprint(tokenizer) == manifest["tokenizer"] == tok.fingerprint(BYTES)
    read, facts = token_folder.load(folder, "train", tokenizer)
    assert facts["kind"] == "text" and len(read) == 7
    expected = [text(n) for n in (0, 2, 3, 6, 7, 60, 61)]
    found = [tok.decode(tokenizer, read.ids[a:b]) for a, b in zip(read.offsets, read.offsets[1:])]
    assert found == expected
    assert np.asarray(read.origins).tolist() == [0, 3, 6, 11, 13, 15, 16]
    assert [s["examples"] for s in manifest["splits"]["train"]["contents"].values()] == [3, 4]


class Shuffled:
    """Does tasks in another order than they are asked for, some of them twice, as engines may."""

    def run(self, plan, tasks):
        order = [*tasks, *tasks[:3]]
        random.Random(0).shuffle(order)
        for task in order:
            do(plan, task)
        yield from tasks


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (HERE, {"chunk": 1}),
        (Shuffled(), {"chunk": 5}),
        (engines.Processes(2), {"chunk": 3}),
        (HERE, {"work": "memory://somewhere/deep"}),
        (HERE, {"work": "WORK"}),
    ],
    ids=["chunks of one", "any order", "two processes", "files elsewhere by fsspec", "another folder"],
)
def test_the_same_is_written_whoever_does_the_work(whole, corpus, tmp_path, engine, options):
    if options.get("work") == "WORK":
        options = {"work": str(tmp_path / "elsewhere")}
    shard_writing.prepare(corpus, BYTES, tmp_path / "other", engine, **options)
    assert files(tmp_path / "other") == files(whole[1])
    assert not list((tmp_path).glob(".*")), "nothing is left behind"
    if "work" in options and "://" not in options["work"]:
        assert not list(pathlib.Path(options["work"]).iterdir())


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_beam_writes_the_same(whole, corpus, tmp_path, workers):
    pytest.importorskip("apache_beam")
    shard_writing.prepare(corpus, BYTES, tmp_path / "beam", engines.Beam(workers=workers), chunk=4)
    assert files(tmp_path / "beam") == files(whole[1])


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (engines.Beam("NoRunner"), "--beam_runner=NoRunner: .*DirectRunner"),
        (engines.Beam(options=("direct_num_worker=2",)), "did you mean 'direct_num_workers'"),
        (engines.Beam(options=("direct_num_workers=two",)), "--beam_option: .*invalid int value: 'two'"),
    ],
)
def test_beams_options_are_checked(corpus, tmp_path, engine, message):
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match=message):
        shard_writing.prepare(corpus, BYTES, tmp_path / "out", engine)


def test_what_is_there_already_is_not_made_again(whole, corpus, tmp_path):
    manifest, folder = whole
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert shard_writing.prepare(corpus, BYTES, folder, HERE) == (json.loads(json.dumps(manifest)), True)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_other_settings_or_data_are_an_error_that_names_them(whole, corpus):
    folder = whole[1]
    changed = dataclasses.replace(corpus, shards=3, near=dataclasses.replace(SURE, threshold=0.9))
    with pytest.raises(
        UserError, match=r"(?s)settings.near.threshold: 0.7 there, 0.9 now.*settings.shards: 2 there, 3 now"
    ):
        shard_writing.prepare(changed, BYTES, folder, HERE)
    evaluation = pathlib.Path(corpus.overlap_with[0].removeprefix("jsonl:"))
    write(evaluation, [{"text": text(n)} for n in range(300, 312)])
    with pytest.raises(UserError, match=r"evaluation_fingerprints.* there, .* now"):
        shard_writing.prepare(corpus, BYTES, folder, HERE)


def test_a_folder_of_something_else_is_left_alone(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"no prepared folder \(no manifest.json\)"):
        shard_writing.prepare(corpus, BYTES, tmp_path / "out", HERE)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("engine", [HERE, engines.Processes(2), engines.Beam()], ids=["here", "processes", "beam"])
def test_a_record_that_cannot_be_encoded_is_named_and_nothing_is_left(cache, tmp_path, engine):
    if isinstance(engine, engines.Beam):
        pytest.importorskip("apache_beam")
    rows = [{"text": text(n)} for n in range(400)]
    rows[323]["text"] = None  # further on than formats are detected by
    source = f"jsonl:{write(tmp_path / 'x.jsonl', rows)}"
    with pytest.raises(UserError, match=r"x.jsonl, line 324: column 'text' is null"):
        shard_writing.prepare(Settings((source,)), BYTES, tmp_path / "out", engine, chunk=40)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "x.jsonl"]


def test_a_source_that_changes_meanwhile_is_an_error(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": text(n)} for n in range(40)])

    class Meddling:
        def run(self, plan, tasks):
            write(path, [{"text": text(n + 1)} for n in range(40)])
            yield from HERE.run(plan, tasks)

    with pytest.raises(UserError, match="changed while it was prepared"):
        shard_writing.prepare(Settings((f"jsonl:{path}",)), BYTES, tmp_path / "out", Meddling())


def test_one_process_at_a_time(corpus, tmp_path):
    class Nested:
        def run(self, plan, tasks):
            with pytest.raises(UserError, match="another process is preparing it"):
                shard_writing.prepare(corpus, BYTES, tmp_path / "out", HERE)
            yield from HERE.run(plan, tasks)

    shard_writing.prepare(corpus, BYTES, tmp_path / "out", Nested())
    assert token_folder.load(tmp_path / "out", "test", BYTES)


def test_a_split_of_which_nothing_is_kept_is_an_error(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": f"a {n}"} for n in range(20)])
    train = sides.counts([(f"a {n}",) for n in range(20)], 0.1)[0]
    expected = rf"nothing of the train split is kept:\n  .*x.jsonl: min_tokens: {train} records"
    with pytest.raises(UserError, match=expected):
        shard_writing.prepare(Settings((f"jsonl:{path}",), min_tokens=9), BYTES, tmp_path / "out", HERE)
    assert not (tmp_path / "out").exists()


def test_more_shards_than_examples(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": text(n)} for n in range(10)])
    manifest, _ = shard_writing.prepare(Settings((f"jsonl:{path}",), shards=6), BYTES, tmp_path / "out", HERE)
    assert [len(manifest["splits"][s]["shards"]) for s in ("train", "validation", "test")] == [6, 1, 1]


KINDS = {
    "answers": [{"prompt": f"{text(n)}? ", "completion": text(n + 100)} for n in range(30)],
    "classification": [{"text": text(n), "label": n % 3} for n in range(30)],
    # Either answer may be the one that is too long.
    "preference": [
        {"prompt": text(n), "chosen": text(n + 100, 9 if n % 3 else 99), "rejected": text(n + 200, 9 if n % 4 else 99)}
        for n in range(30)
    ],
    "tokens": [{"input_ids": [n, *range(n)], "loss_mask": [k % 2 for k in range(n + 1)]} for n in range(30)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_every_kind_are_stored_as_they_are_without_preparation(cache, tmp_path, kind):
    reference = f"jsonl:{write(tmp_path / 'x.jsonl', KINDS[kind])}"
    settings = Settings((reference,), ("train",), min_tokens=4, max_tokens=500, shards=2)
    manifest, _ = shard_writing.prepare(settings, BYTES, tmp_path / "out", HERE, chunk=7)
    assert manifest["kind"] == kind
    found, _ = token_folder.load(tmp_path / "out", "train", BYTES)
    opened = tokenize.Opened.of(reference, "train", held_out=0.1)
    encoder = formats.encoder(opened.format, BYTES)
    count = len(opened.records)
    examples = encoder.encode(
        [opened.records[i] for i in range(count)], [opened.records.where(i) for i in range(count)]
    )
    longest = [max(len(e.ids), len(e.rejected.ids) if e.rejected else 0) for e in examples]
    writer = store_writer.Writer(tmp_path / "direct", BYTES.vocab_size)
    kept = [i for i in range(count) if 4 <= longest[i] <= 500]
    writer.add([examples[i] for i in kept], kept)
    writer.close()
    direct = store.load(tmp_path / "direct")
    for name in ("ids", "offsets", "trained", "labels", "origins", "per_example"):
        np.testing.assert_array_equal(getattr(found, name), getattr(direct, name), err_msg=name)
    assert (kind in ("tokens", "preference")) == (len(kept) < count)


def test_masks_of_some_examples_only():
    mask = np.asarray([True, False])
    columns = {
        "ids": np.arange(9), "lengths": np.asarray([2, 2, 3, 2]), "per_example": np.asarray([1, 2, 1]),
        "masked": np.asarray([False, True, False, True]), "trained": np.concatenate([mask, ~mask]),
        "labels": np.asarray([-1, -1, 4]),
    }  # fmt: skip
    first, pair, last = gathering.examples(Chunk(columns, []), np.asarray([True, True, True]))
    assert first.trained is None and first.rejected is None and first.ids.tolist() == [0, 1]
    assert pair.ids.tolist() == [2, 3] and pair.trained.tolist() == [True, False]
    assert pair.rejected.ids.tolist() == [4, 5, 6] and pair.rejected.trained is None
    assert last.ids.tolist() == [7, 8] and last.trained.tolist() == [False, True] and last.label == 4
    (only,) = gathering.examples(Chunk(columns, []), np.asarray([False, False, True]))
    assert only.ids.tolist() == [7, 8] and only.trained.tolist() == [False, True]


def test_no_more_than_the_first_losses_are_listed(cache, tmp_path):
    path = write(tmp_path / "x.jsonl", [{"text": text(n) if n % 2 else f"a {n}"} for n in range(100)])
    listed = []

    class Watched:
        def run(self, plan, tasks):
            for task in HERE.run(plan, tasks):
                listed.append(len(Chunk.read(task).details))
                yield task

    settings = Settings((f"jsonl:{path}",), ("train",), min_characters=9)
    manifest, _ = shard_writing.prepare(settings, BYTES, tmp_path / "out", Watched(), chunk=60)
    (source,) = manifest["splits"]["train"]["sources"]
    assert source["lost"]["min_characters"]["records"] > 30 and listed[0] == 20 == MOST
    places = [int(re.search(r"line (\d+)", x)[1]) for x in source["lost"]["min_characters"]["examples"]]
    assert len(places) == 20 and all(place % 2 == 1 for place in places)


def test_ids_are_compared_by_the_text_that_they_stand_for(cache, tmp_path):
    said = [text(n) for n in (0, 1, 0, 2, *range(5, 20))]
    assert sides.of(0.1, str(BYTES.encode(said[0]).tolist())) == "train"
    reference = f"jsonl:{write(tmp_path / 'x.jsonl', [{'input_ids': BYTES.encode(x).tolist()} for x in said])}"
    settings = Settings((f"{reference}?id=-",), splits=("train",), deduplicate="exact")
    manifest, _ = shard_writing.prepare(settings, BYTES, tmp_path / "out", HERE)
    (source,) = manifest["splits"]["train"]["sources"]
    assert lost(source) == {"duplicate": 1} and source["kept"]["characters"] == source["kept"]["tokens"]


def test_sources_of_several_kinds_are_an_error(cache, tmp_path):
    paths = [write(tmp_path / f"{kind}.jsonl", KINDS[kind]) for kind in ("answers", "classification")]
    with pytest.raises(UserError, match=r"(?s)several kinds.*answers.jsonl.*classification.jsonl"):
        shard_writing.prepare(Settings(tuple(f"jsonl:{p}" for p in paths)), BYTES, tmp_path / "out", HERE)


def test_an_overlap_can_be_listed_only(corpus, tmp_path):
    manifest, _ = shard_writing.prepare(dataclasses.replace(corpus, overlap="list"), BYTES, tmp_path / "out", HERE)
    first = manifest["splits"]["train"]["sources"][0]
    assert "overlap" not in first["lost"] and first["kept"]["records"] == 5
    assert first["overlap_listed"]["records"] == 1 and "line 11" in first["overlap_listed"]["examples"][0]


def test_listed_overlaps_that_are_repeats_count_once(cache, tmp_path):
    # Each of 30 texts comes twice; all overlap. The second of each is a duplicate, not a listed overlap.
    runs = [text(n) for n in range(30)]
    said = [run for run in runs for _ in range(2)]
    source = write(tmp_path / "x.jsonl", [{"text": x} for x in [*said[:2], *[said[0]] * 30, *said[2:]]])
    evaluation = write(tmp_path / "e.jsonl", [{"text": run} for run in runs])
    settings = Settings(
        (f"jsonl:{source}",), ("train",), deduplicate="exact", overlap_with=(f"jsonl:{evaluation}",), overlap="list"
    )
    manifest, _ = shard_writing.prepare(settings, BYTES, tmp_path / "out", HERE)
    (found,) = manifest["splits"]["train"]["sources"]
    assert found["overlap_listed"]["records"] == found["kept"]["records"] > 20
    assert found["lost"]["duplicate"]["records"] == found["records"] - found["kept"]["records"]
    assert len(found["overlap_listed"]["examples"]) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ()}, "--source is missing"),
        ({"sources": ("jsonl:a", "jsonl:a")}, "--source=jsonl:a: given twice"),
        ({"shards": 0}, "--shards=0"),
        ({"min_tokens": 5, "max_tokens": 4}, "--max_tokens=4: less than --min_tokens=5"),
        ({"held_out": 0.5}, "--held_out=0.5"),
        ({"overlap_words": 1}, "--overlap_words=1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        Settings(**{"sources": ("jsonl:a",), **change})


# The process is killed when the first of three pieces of work is done.
KILLED = """
import os, signal, sys
from ptft_jax.data.prepare import engines
from ptft_jax.verbs.data import __main__ as tools

do = engines.work

def work(plan, task):
    do(plan, task)
    assert task.path.endswith("chunk-00000000")
    os.kill(os.getpid(), signal.SIGKILL)

engines.work = work
tools.main(sys.argv[1:])
"""


@pytest.mark.heavy
def test_the_command_is_killed_and_started_again(cache, tmp_path):
    source = write(tmp_path / "x.jsonl", [{"text": text(n, 60)} for n in range(3000)])
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    flags = [f"--source=jsonl:{source}", "--tokenizer=byte", "--deduplicate=near", "--quality=basic", "--workers=1"]
    words = ["prepare", *flags, f"--out={out}"]
    killed = run(sys.executable, "-c", KILLED, *words)
    assert killed.returncode == -signal.SIGKILL and partial.is_dir() and not out.exists(), killed.stderr
    assert list(partial.glob("prepare-*/*/chunk-00000000"))
    again = run(sys.executable, "-m", "ptft_jax.verbs.data", *words)
    assert again.returncode == 0, again.stderr
    assert f"prepared: tokens:{out}" in again.stdout and "near_duplicates: pairs_compared" in again.stdout
    fresh = Settings((f"jsonl:{source}",), quality=quality_limits("basic", ""), deduplicate="near")
    shard_writing.prepare(fresh, BYTES, tmp_path / "fresh", HERE)
    assert files(out) == files(tmp_path / "fresh")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "fresh", "out", "x.jsonl"]


def test_what_was_done_before_a_kill_is_not_done_again(cache, tmp_path, monkeypatch):
    """But of the same plan alone: other settings, or tasks of another size, begin anew."""
    from ptft_jax.data.prepare import chunks

    rows = [{"text": text(n)} for n in range(60)]
    source, partial = f"jsonl:{write(tmp_path / 'x.jsonl', rows)}", tmp_path / ".out.partial"

    class Killed:
        def run(self, plan, tasks):
            yield from HERE.run(plan, tasks[:2])
            shutil.copytree(partial, tmp_path / "left")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard_writing.prepare(Settings((source,)), BYTES, tmp_path / "out", Killed(), chunk=10)
    shard_writing.prepare(Settings((source,)), BYTES, tmp_path / "fresh", HERE)
    [work] = (tmp_path / "left").glob("prepare-*")
    [second] = work.glob("*/chunk-00000001")
    second.rename(f"{second}.error")  # that its task failed is no reason not to try again
    (tmp_path / "left/gathered/half").write_bytes(b"x")
    done, real = [], chunks._Worker.measured
    monkeypatch.setattr(chunks._Worker, "measured", lambda self, task: done.append(task.path[-1]) or real(self, task))
    same, other = Settings((source,)), Settings((source,), max_tokens=10_000)
    for again, settings, first in ((10, same, ["1"]), (20, same, ["0", "1"]), (10, other, ["0", "1"])):
        shutil.copytree(tmp_path / "left", partial)
        shard_writing.prepare(settings, BYTES, tmp_path / "out", HERE, chunk=again)
        assert done[: len(first)] == first and "2" in done and (done[1] == "2") == (len(first) == 1)
        if settings is same:
            assert files(tmp_path / "out") == files(tmp_path / "fresh")
        assert not partial.exists()
        shutil.rmtree(tmp_path / "out")
        done.clear()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokenizer=byte", "--out=o"], "--source is missing"),
        (["--source=jsonl:x", "--tokenizer=byte"], "--out is missing"),
        (["--source=jsonl:x", "--out=o"], "--tokenizer is missing"),
        (["--source=jsonl:x", "--out=o", "--tokenizer=byte", "--split=valid"], "--split=valid: expected some of train"),
        (["--source=jsonl:x", "--out=o", "--tokenizer=byte", "--quality_rules=a=1"], "needs --quality=basic"),
        (["--source=jsonl:x", "--out=o", "--tokenizer=byte", "--beam_option=a=1"], "are for --engine=beam"),
        (["--source=json:x", "--out=o", "--tokenizer=byte"], "did you mean 'jsonl'"),
        (["--source=jsonl:x", "--out=o", "--tokenizer=nowhere"], "nowhere"),
    ],
)
def test_bad_flags(flags, message, tmp_path, monkeypatch):
    from absl import flags as absl

    from ptft_jax.verbs.data import prepare

    values = absl.FlagValues()
    monkeypatch.setattr(prepare.flags, "FLAGS", values)
    for name in ("string", "integer", "float", "enum", "list", "multi_string"):
        define = getattr(absl, f"DEFINE_{name}")
        monkeypatch.setattr(
            prepare.flags, f"DEFINE_{name}", lambda *a, define=define, **k: define(*a, flag_values=values, **k)
        )
    monkeypatch.chdir(tmp_path)
    prepare.define()
    values(["ptft data prepare", *flags])
    with pytest.raises(UserError, match=message):
        prepare.main()


def test_help_names_the_verbs():
    from ptft_jax.verbs.data.__main__ import VERBS

    done = ptft("data", "--help")
    assert done.returncode == 0 and all(f"  {verb} " in done.stdout for verb in VERBS)
    wrong = run(sys.executable, "-m", "ptft_jax.verbs.data", "prepaer")
    assert wrong.returncode == 2 and "did you mean 'prepare'" in wrong.stderr
