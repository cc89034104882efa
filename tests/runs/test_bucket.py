"""Runs in buckets, here of this process' memory: what is copied in which order, what counts there, and whose the place is."""

import json
import os
import subprocess
import sys
import threading
import types

import fsspec
import pytest

from ptft_jax.errors import UserError
from ptft_jax.reporting import run_report
from ptft_jax.runs import bucket, checkpoint, loading, manifest, owner, pins, source, upload
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs import report
from tests.helpers import quiet_train, tiny_config

URL = "memory://b/runs/a"


@pytest.fixture
def there(cache, monkeypatch):
    """The objects of the bucket, name -> bytes; waits of tries and for signs of life are none."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    monkeypatch.setattr(bucket, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(owner, "SILENCE", 0.3)
    yield system.store
    system.store.clear()


def names(store):
    return sorted(name.removeprefix("/b/runs/a/") for name in store)


def write_step(folder, step, text="x"):
    here = Workdir(folder).checkpoint(step).path
    for name in ("params/d/1", "params/manifest.ocdbt", "meta/metadata"):
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + name)
    manifest.write(here, ("params", "meta"))


def begun(url=URL):
    """The folder of a launch, with what is written before the first step, and what copies it."""
    folder = bucket.folder_of(url, "--workdir")
    launch = upload.Upload(url, folder, lambda _: None)
    launch.begin()
    folder.mkdir(parents=True, exist_ok=True)
    Workdir(folder).config.write_text("{}")
    return folder, launch


def take(store):
    """Another launch, elsewhere, takes the place."""
    holder = json.loads(store["/b/runs/a/owner.json"].getvalue())
    other = {**holder, "host": "other", "machine": "m", "nonce": "n"}
    fsspec.filesystem("memory").pipe_file("/b/runs/a/owner.json", json.dumps(other).encode())


def test_places():
    folder = bucket.folder_of("s3://b/runs/a/", "--workdir")
    assert folder.parts[-4:] == ("s3", "b", "runs", "a") and bucket.url_of(folder) == "s3://b/runs/a"
    assert bucket.url_of(folder.parent.parent.parent) == "" and bucket.url_of(folder.parents[5]) == ""
    assert os.path.relpath(bucket.folder_of("s3://b/base", "x"), folder) == "../../base"
    for url in ("gs://b", "gs:///", "gs://b/../x"):
        with pytest.raises(UserError, match="--workdir: expected gs://BUCKET/FOLDER"):
            bucket.folder_of(url, "--workdir")


def test_a_checkpoint_counts_when_all_of_it_is_there(there, monkeypatch):
    folder, launch = begun()
    write_step(folder, 4)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "progress.json").write_text("{}")
    (folder / "checkpoints/5.orbax-checkpoint-tmp").mkdir()
    (folder / "checkpoints/5.orbax-checkpoint-tmp/x").write_text("half")
    order, put = [], bucket.Bucket.put
    monkeypatch.setattr(bucket.Bucket, "put", lambda self, path, name: (order.append(name), put(self, path, name))[1])
    launch.push()
    assert order[:2] == ["metrics.jsonl", "config.json"] and order[-2:] == ["checkpoints/4/files.json", "progress.json"]
    assert names(there) == sorted([*order, "owner.json"])
    removed, remove = [], bucket.Bucket.remove
    monkeypatch.setattr(
        bucket.Bucket, "remove", lambda self, names: (removed.extend(names), remove(self, removed[:]))[1]
    )
    write_step(folder, 8)
    (folder / "checkpoints/4").rename(folder / "checkpoints/4.removing")
    pins.keep(folder, 8, folder.parent / "child")
    launch.push()
    assert removed[0] == "checkpoints/4/files.json" and len(removed) == 4
    assert {bucket.step_of(name) for name in names(there)} == {None, 8}
    launch.push()
    assert len(removed) == 4, "nothing is new"
    (folder / "checkpoints/8").rename(folder / "checkpoints/8.removing")
    launch.end()
    assert {bucket.step_of(name) for name in names(there)} == {None, 8}, "another run needs it"
    assert "owner.json" not in names(there)


def test_what_was_half_copied_is_removed_and_not_read(there):
    folder, launch = begun()
    write_step(folder, 4)
    launch.end()
    for name in ("params/d/1", "meta/metadata"):
        there[f"/b/runs/a/checkpoints/9/{name}"] = there[f"/b/runs/a/checkpoints/4/{name}"]
    assert Workdir(bucket.copied(URL, "x")).steps() == [4]
    damaged = folder / "checkpoints/4/params/d/1"
    damaged.write_text("y" * damaged.stat().st_size)
    write_step(folder, 7)
    folder, launch = begun()
    assert {bucket.step_of(name) for name in names(there)} == {None, 4}
    assert Workdir(folder).steps() == [4] and not manifest.damage(folder / "checkpoints/4", contents=True)
    launch.end()


def test_what_fails_for_a_moment_is_tried_again(there, monkeypatch):
    folder, launch = begun()
    write_step(folder, 4)
    left, put = [2], launch._bucket._system.put_file

    def failing(*given, **options):
        if left[0]:
            left[0] -= 1
            raise ConnectionError("broken off")
        return put(*given, **options)

    monkeypatch.setattr(launch._bucket._system, "put_file", failing)
    launch.push()
    assert left == [0] and "checkpoints/4/files.json" in names(there)
    left[0] = 10**6
    write_step(folder, 8)
    with pytest.raises(UserError, match=f"{URL}: cannot be written .ConnectionError: broken off"):
        launch.push()
    assert "checkpoints/8/files.json" not in names(there) and "checkpoints/4/files.json" in names(there)
    left[0] = 0
    launch.end()
    assert "checkpoints/8/files.json" in names(there)


def test_one_launch_at_a_time(there, cache, monkeypatch):
    _, launch = begun()
    take(there)
    with pytest.raises(UserError, match="was taken over by other"):
        launch.push()
    launch._ended.set()
    read, beats = upload.Upload._holder, iter(range(10**6))
    monkeypatch.setattr(upload.Upload, "_holder", lambda self: read(self) | {"beats": next(beats)})
    with pytest.raises(
        UserError, match=f"--workdir={URL}: process {os.getpid()} on other .since 20.* is running in it"
    ):
        begun()
    monkeypatch.setattr(upload.Upload, "_holder", read)
    begun()[1].end()  # no sign of life


@pytest.mark.parametrize("during", ["begin", "push", "end"])
def test_a_launch_that_copies_for_long_lives(there, monkeypatch, during):
    monkeypatch.setattr(upload, "_BEAT", 0.01)
    monkeypatch.setattr(owner, "SILENCE", 3.0)  # however slow this machine is
    folder, launch = begun()
    write_step(folder, 4)
    if during == "begin":
        launch.end()
        launch = upload.Upload(URL, folder, lambda _: None)
    slow, goes_on, started = "get" if during == "begin" else "put", threading.Event(), threading.Event()
    act = getattr(bucket.Bucket, slow)

    def waits(self, *given):
        started.set()
        assert goes_on.wait(10)
        return act(self, *given)

    monkeypatch.setattr(bucket.Bucket, slow, waits)
    if during == "begin":
        (folder / "config.json").unlink()
    copying = threading.Thread(target=getattr(launch, during))
    copying.start()
    assert started.wait(10)
    try:
        another = upload.Upload(URL, folder.parent / "elsewhere", lambda _: None)
        monkeypatch.setattr(another, "_is_dead", lambda holder: False)  # of another machine
        with pytest.raises(UserError, match="is running in it"):
            another.begin()
    finally:
        goes_on.set()
        copying.join()
    if during != "end":
        launch.end()
    assert "owner.json" not in names(there) and "checkpoints/4/files.json" in names(there)


def test_a_launch_that_was_taken_over_writes_nothing_more(there, monkeypatch):
    folder, launch = begun()
    write_step(folder, 4)
    put = bucket.Bucket.put

    def taken(self, path, name):
        put(self, path, name)
        if name == "checkpoints/4/meta/metadata":
            take(there)

    with monkeypatch.context() as patch:
        patch.setattr(bucket.Bucket, "put", taken)
        with pytest.raises(UserError, match="taken over by other"):
            launch.push()
    assert "checkpoints/4/files.json" not in names(there), "half of it may be gone"
    del there["/b/runs/a/owner.json"]  # the other has left
    launch = upload.Upload(URL, folder, lambda _: None)
    launch.begin()
    write_step(folder, 8)
    del there["/b/runs/a/owner.json"]  # another has taken it, and left it
    before = names(there)
    for act in (launch.push, launch.end):
        with pytest.raises(UserError, match="taken over by a launch that has ended since"):
            act()
    assert names(there) == before


def test_who_is_known_to_have_ended(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"machine": owner.machine(), "pids": owner.pids(), "process": ended.pid}
    assert owner.ended(holder) and not owner.ended({**holder, "process": os.getpid()})
    assert not owner.ended({**holder, "pids": "pid:[1]"}), "a container beside this one"
    monkeypatch.setattr(owner, "pids", lambda: "pid:[1]")
    assert not owner.ended({"machine": owner.machine(), "process": ended.pid}), "of an earlier version: not known"
    holder = {"machine": owner.machine(), "pids": "pid:[1]", "process": os.getpid(), "nonce": "not of this process"}
    assert not upload.Upload(URL, bucket.folder_of(URL, "x"), lambda _: None)._is_dead(holder)


def test_what_its_run_removes_while_it_is_read_is_gone_and_nothing_else(there, monkeypatch):
    folder, launch = begun()
    write_step(folder, 4)
    launch.end()
    _, step = checkpoint.resolve(f"{URL}@last", "x")
    [(folder / "checkpoints/4" / name).unlink() for name in ("params/d/1", "params/manifest.ocdbt")]
    get = bucket.Bucket.get

    def removed(self, name, target):
        del there["/b/runs/a/checkpoints/4/files.json"]
        del there[f"/b/runs/a/{name}"]
        get(self, name, target)

    for reading in (removed, get):  # while it is copied, and before
        monkeypatch.setattr(bucket.Bucket, "get", reading)
        (folder / "checkpoints/4").mkdir(parents=True, exist_ok=True)
        bucket.complete(folder, 4)
        with pytest.raises(checkpoint.Gone):
            checkpoint.read_meta(folder, step)


def test_a_base_is_protected_and_a_report_put_where_its_run_is(there, tmp_path, monkeypatch, capsys):
    folder, launch = begun()
    write_step(folder, 4)
    launch.end()
    source.protect_base({"workdir": URL, "step": 4}, tmp_path / "child")
    assert [name.partition("-")[0] for name in names(there) if "4-" in name] == [f"{Workdir(folder).references.name}/4"]
    assert run_report._trained_on(URL) == "" == run_report._trained_on("memory://b/runs/none")
    (folder / "config.json").write_text('{"data": {"source": "text:a"}}')
    bucket.published(folder, folder / "config.json")
    assert run_report._trained_on(URL) == "text:a"
    monkeypatch.setattr(
        run_report, "write", lambda _, out: [p.write_text("of a run") for p in (out, out.with_name("results.json"))]
    )
    monkeypatch.setattr(report.flags, "FLAGS", types.SimpleNamespace(run=[URL], out=""))
    report.main()
    assert there["/b/runs/a/report.html"].getvalue() == there["/b/runs/a/results.json"].getvalue() == b"of a run"
    assert f"report: {URL}/report.html" in capsys.readouterr().out
    monkeypatch.setattr(bucket.Bucket, "put", None)
    with pytest.raises(UserError, match="cannot be written; give a file of this machine, as --out"):
        report.main()


def test_an_interrupted_start_gives_the_place_up(there, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(bucket, "pull", interrupted)
    with pytest.raises(KeyboardInterrupt):
        begun()
    assert names(there) == []


@pytest.mark.heavy
def test_a_run_in_a_bucket_is_as_one_of_a_folder(there, cache, text_file, tmp_path, monkeypatch):
    made = tiny_config(text_file, training__steps=6, eval__every=2, checkpoint__every=2, model__dropout=0.1)
    summary = quiet_train(made, tmp_path / "whole")
    stop = [(lambda at: at.step == 3, lambda at: at.leave())]
    assert not quiet_train(made, URL, hooks=stop)["finished"]
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "other"))  # another machine
    assert quiet_train(made, URL)["selected"] == summary["selected"]
    assert [n for n in names(there) if n.endswith("files.json")] == [
        f"checkpoints/{step}/files.json" for step in Workdir(tmp_path / "whole").steps()
    ]
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "third"))
    workdir, step = checkpoint.resolve(URL)
    ours, theirs = (checkpoint.read_meta(folder, 6)["checksums"] for folder in (workdir, tmp_path / "whole"))
    assert ours == theirs and step == checkpoint.best_step(tmp_path / "whole")
    assert quiet_train(made, URL)["finished"]
    tuned = tiny_config(text_file, training__steps=2, eval__every=2, init__from_=URL, tune__method="lora")
    quiet_train(tuned, "memory://b/runs/child")
    monkeypatch.setenv("PTFT_CACHE", str(tmp_path / "fourth"))
    loaded = loading.load("memory://b/runs/child")
    assert loaded.source.lineage("")[1]["workdir"] == URL and loaded.source.meta["base"]["workdir"] == URL
