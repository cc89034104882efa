"""The dashboard as a browser asks it, and as somebody asks it who should not."""

import http.client
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
import types

import pytest

from ptft_jax.dashboard import machine, series
from ptft_jax.dashboard.server import Server
from ptft_jax.dashboard.views import Views
from ptft_jax.errors import UserError
from tests.processes import ended, start
from tests.reporting.test_run_report import run

NODES = {"a": "finished", "b": "failed", "c": None, "d": None}  # how they ended; None of one that has not


def experiment(folder):
    """What a launch leaves of a graph of which one node runs and one waits."""
    nodes = [
        {
            "name": name,
            "kind": "call",
            "parents": [],
            "group": name,
            "point": {},
            "seed": None,
            "folder": f"runs/{name}",
        }
        for name in NODES
    ]
    asked = {"question": "Why <b>?", "figure": "", "better": "", "baseline": "", "command": [], "nodes": nodes}
    for name in ("a", "b", "c"):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "node.json").write_text("{}")
    (folder / "logs").mkdir()
    (folder / "logs/b.log").write_text("this is why\n")
    (folder / "experiment.json").write_text(json.dumps(asked))
    ends = {name: {"status": status, "message": "m", "seconds": 1.5} for name, status in NODES.items() if status}
    (folder / "state.json").write_text(json.dumps({"nodes": ends, "waiting": ["c", "d"]}))
    told = "# Why <b>?\n\nIt is <b>, as `table.csv` has it.\n\n| way | nll |\n| --- | --- |\n| x | a&#124;b |\n"
    (folder / "experiment.md").write_text(told)
    (folder / "experiment.html").write_text("<p>the page</p>")
    (folder / "owner.json").write_text(json.dumps({"machine": "elsewhere", "process": 1}))  # fresh: it seems to run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("dashboard")
    (root / "secret.log").write_text("secret")
    inside = root / "runs"
    for name, loss in (("first", 1.5), ("deep/second", 2.5)):
        run(inside / name, loss, finished=name == "first")
    (inside / "deep/second/metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": n, "kind": "train", "time": 1.0, "loss": math.nan if n == 5 else n / 2}) + "\n"
            for n in range(9)
        )
        + '{"step": 9, "ki'
    )
    experiment(inside / "sweep")
    run(root / "outside", 9.0)
    (inside / "linked").symlink_to(root / "outside")
    run(inside / "stolen", 3.0)
    (inside / "stolen/samples.jsonl").unlink()
    (inside / "stolen/samples.jsonl").symlink_to(root / "secret.log")
    (inside / "sweep/logs/c.log").symlink_to(root / "secret.log")
    return inside


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    os.environ["PTFT_CACHE"], before = str(tmp_path_factory.mktemp("cache")), os.environ.get("PTFT_CACHE")
    with Server(Views(folder), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    if before is None:
        del os.environ["PTFT_CACHE"]
    else:
        os.environ["PTFT_CACHE"] = before


def ask(server, path, token=True, method="GET", **headers):
    """(status, headers, body) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    if token:
        headers["Authorization"] = f"Bearer {server.token}"
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def got(server, path):
    status, _, body = ask(server, path)
    assert status == 200, body
    return json.loads(body)


def test_who_has_no_token_is_refused(server):
    port, token = server.server_port, server.token
    assert len(token) >= 32 and server.url == f"http://127.0.0.1:{port}/?token={token}"
    for path in ("/", "/app.js", "/api/runs", "/nothing", f"/?token={token[:-1]}", "/?token=%ff%00", "/?token="):
        status, headers, body = ask(server, path, token=False)
        assert status == 403 and token.encode() not in body and "Set-Cookie" not in headers, path
    status, headers, body = ask(server, f"/?token={token}", token=False)
    assert status == 200 and b"<main" in body
    cookie = headers["Set-Cookie"]
    assert cookie == f"ptft_{port}={token}; Path=/; HttpOnly; SameSite=Strict"
    assert ask(server, "/api/machine", token=False, Cookie=cookie.partition(";")[0])[0] == 200
    for other in (f"ptft_{port + 1}={token}", f"ptft_{port}=x", f"ptft_{port}", "\x01"):
        assert ask(server, "/api/machine", token=False, Cookie=other)[0] == 403
    assert ask(server, "/api/machine", token=False, Authorization=f"Basic {token}")[0] == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:{}", 200), ("localhost:{}", 200), ("[::1]:{}", 200), ("evil.example:{}", 403), ("127.0.0.1.evil.example", 403),
     ("10.0.0.1:{}", 403), ("", 403), ("[", 403)],
)  # fmt: skip
def test_names_of_others_that_lead_here_are_refused(server, host, status):
    assert ask(server, "/api/machine", Host=host.format(server.server_port))[0] == status


def test_nothing_is_loaded_from_elsewhere_or_run_within(server):
    for path in ("/", "/app.js", "/look.css"):
        _, headers, body = ask(server, path)
        assert (
            "default-src 'none'" in headers["Content-Security-Policy"]
            and headers["X-Content-Type-Options"] == "nosniff"
        )
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", body), path
    status, headers, body = ask(server, "/report?experiment=sweep")
    assert (status, body) == (200, b"<p>the page</p>") and headers["Content-Security-Policy"].startswith(
        "sandbox; default-src 'none'"
    )


def test_runs_are_listed(server):
    found = got(server, "/api/runs?sort=name")
    assert [(row["name"], row["state"]) for row in found["rows"]] == [
        ("deep/second", "stopped"), ("first", "finished"), ("stolen", "finished"),
    ]  # fmt: skip
    assert [row["name"] for row in got(server, "/api/runs?where=after.validation/nll%3C2")["rows"]] == ["first"]
    for path, words in (("where=stat%3Dx", "did you mean 'state'"), ("sort=nme", "did you mean 'name'")):
        status, _, body = ask(server, f"/api/runs?{path}")
        assert status == 400 and words in json.loads(body)["error"]
    _, headers, _ = ask(server, "/api/runs")
    assert ask(server, "/api/runs", If_None_Match=headers["ETag"])[::2] == (304, b"")


def test_a_run_that_goes_on(server, folder):
    lines = got(server, "/api/curves?name=deep/second&name=first")["runs"]
    assert lines["deep/second"]["train/loss"] == [[n, None if n == 5 else n / 2] for n in range(9)]
    assert lines["first"] == {"eval/validation/nll": [[3, 1.5]]}
    with (folder / "deep/second/metrics.jsonl").open("a") as file:
        file.write('nd": "train", "loss": 4.25}\n')
    assert got(server, "/api/curves?name=deep/second")["runs"]["deep/second"]["train/loss"][-1] == [9, 4.25]
    found = got(server, "/api/curves?name=gone&name=first&name=../outside&name=stolen")
    assert list(found["runs"]) == ["first"] and found["missing"] == ["gone", "../outside", "stolen"]
    found = got(server, "/api/run?name=first")
    assert found["summary"]["state"] == "finished" and found["samples"] == [{"step": 3, "prompt": "p", "text": "t1.5"}]


def test_an_experiment_that_goes_on(server, folder):
    os.utime(folder / "sweep/owner.json")
    [one] = got(server, "/api/experiments")["experiments"]
    assert one["name"] == "sweep" and one["running"] and one["question"] == "Why <b>?"
    assert one["nodes"] == {"finished": 1, "failed": 1, "running": 1, "waiting": 1}
    found = got(server, "/api/experiment?name=sweep")
    assert {node["name"]: node["status"] for node in found["nodes"]} == NODES | {"c": "running", "d": "waiting"}
    assert found["graph"].startswith("<svg") and found["page"] and found["nodes"][1]["message"] == "m"
    assert got(server, "/api/log?experiment=sweep&node=b")["log"] == "this is why\n"


@pytest.mark.parametrize(
    "path",
    [
        "/api/run?name=../outside", "/api/run?name=linked", "/api/run?name=stolen", "/api/run?name={root}/outside", "/api/run?name=%00",
        "/api/experiment?name=..", "/api/experiment?name=first", "/report?experiment=../sweep/x",
        "/report?experiment=first", "/api/log?experiment=first&node=b", "/api/log?experiment=sweep&node=c",
        "/api/log?experiment=sweep&node=../../../secret", "/..%2f..%2fetc/passwd", "/server.py", "/assets/app.js",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_folder_is_read(server, folder, path):
    status, _, body = ask(server, path.format(root=folder.parent))
    assert status == 404 and b"secret" not in body.replace(b"secret.log", b"")


def test_a_log_is_that_of_a_node(server, folder):
    again = folder / "sweep/runs/b.2"
    run(again, 1.0)
    (again / "node.json").write_text(json.dumps({"name": "b"}))
    assert got(server, "/api/run?name=sweep/runs/b.2")["log"] == "this is why\n"
    shutil.rmtree(again)
    assert got(server, "/api/log?experiment=sweep&node=../../first/b")["log"] == ""
    assert got(server, "/api/log?experiment=sweep&node=a")["log"] == ""


def test_it_only_reads(server, folder):
    before = sorted(folder.rglob("*"))
    for method in ("POST", "PUT", "DELETE"):
        assert ask(server, "/api/runs", method=method)[0] == 501
    assert ask(server, "/", method="HEAD")[::2] == (200, b"")
    assert sorted(folder.rglob("*")) == before


def test_where_it_listens(server, folder):
    views = Views(folder)
    with pytest.raises(UserError, match=rf"--port={server.server_port}: .*in use: --port=\d+ is free"):
        Server(views, "127.0.0.1", server.server_port)
    with pytest.raises(UserError, match="others could reach it.*--allow_remote"):
        Server(views, "0.0.0.0", 0)
    with pytest.raises(UserError, match="--host=example.org: expected an address"):
        Server(views, "example.org", 0, remote=True)


def test_long_curves_keep_their_peaks():
    points = [(n, math.sin(n)) for n in range(10_000)]
    points[3_333], points[7_777] = (3_333, 50.0), (7_777, -50.0)
    points[5_000] = (5_000, None)
    found = series.thinned(points)
    assert len(found) <= series.MOST and found[0] == points[0] and found[-1] == points[-1]
    assert points[3_333] in found and points[7_777] in found and found == sorted(found)
    assert series.thinned(points[:7]) == points[:7]


def test_what_nvidias_tool_says():
    """Lines of nvidia-smi 550 --format=csv,noheader,nounits; of a GPU in parts it does not know the use."""
    found = machine.gpus_of("0, NVIDIA H100 80GB HBM3, 87, 40536, 81559\n1, NVIDIA H100 80GB HBM3, [N/A], 0, 81559\n\n")
    assert [gpu["use"] for gpu in found] == [0.87, None] and found[0]["name"] == "0: NVIDIA H100 80GB HBM3"
    assert found[0]["memory"] == 40536 * 2**20


def test_processors_and_memory_in_use(tmp_path, monkeypatch):
    """Of tables by hand: of 400 ticks since it was last asked 300 were idle or waited; of 1,000 kB 250 are available."""
    (tmp_path / "proc").mkdir()
    stat, memory = tmp_path / "proc/stat", tmp_path / "proc/meminfo"
    stat.write_text("cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 1 1 1\n")
    memory.write_text("MemTotal:    1000 kB\nMemFree:   10 kB\nMemAvailable:   250 kB\n")
    here = types.SimpleNamespace(Path=lambda path: tmp_path / path.lstrip("/"))
    monkeypatch.setattr(machine, "pathlib", here)
    monkeypatch.setattr(machine, "_gpus", list)
    asked = machine.Machine()
    stat.write_text("cpu  150 0 150 900 200 0 0 0 9 9\ncpu0 1 1 1 1\n")
    found = asked.use()
    assert found["cpu"] == 0.25 and found["cpus"] == os.cpu_count() and found["gpus"] == []
    assert (found["memory"], found["memory_total"]) == (750 * 1024, 1000 * 1024)
    stat.unlink()
    memory.unlink()
    monkeypatch.setattr(machine, "_FRESH", 0.0)
    found = asked.use()
    assert found["cpu"] is found["memory"] is found["memory_total"] is None, "what the system does not say"


def test_ctrl_c_ends_it(folder, tmp_path):
    started = start(
        sys.executable,
        "-m",
        "ptft_jax.cli",
        "dashboard",
        folder,
        "--port=0",
        PTFT_CACHE=str(tmp_path / "cache"),
        XLA_FLAGS="",
    )
    try:
        while "token=" not in started.written()[0] and started.process.poll() is None:
            time.sleep(0.05)
        os.kill(started.process.pid, signal.SIGINT)
    finally:
        [done] = ended(started, timeout=120)
    assert done.returncode == 0 and re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S{32}\n", done.stdout), done
    assert "Traceback" not in done.stderr
