"""Runs tracked by the real clients, without a network: what they recorded is what the run wrote, once. `make trackers`."""

import json
import os
import struct

import pytest

from ptft_jax.runs.files import read_rows
from ptft_jax.runs.workdir import Workdir
from tests.helpers import quiet_train, stop_at, tiny_config

pytestmark = pytest.mark.slow


def tracked(text_file, workdir, name):
    """A run that stops and continues, tracked; what trackers.json calls it, and what it wrote: {"kind/name": {step: value}}."""
    config = tiny_config(text_file, training__steps=6, eval__every=3, log__trackers=(name,))
    config.samples.update(prompts=("the",), max_new_tokens=5, every=3)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(4, patch)
        quiet_train(config, workdir)
    quiet_train(config, workdir)
    written: dict = {}
    for row in read_rows(workdir / "metrics.jsonl"):
        for key in row.keys() - {"step", "kind", "time"}:
            written.setdefault(f"{row['kind']}/{key}", {})[row["step"]] = row[key]
    assert set(written["train/loss"]) == {1, 2, 3, 4, 5, 6} and set(written["eval/validation/nll"]) == {0, 3, 6}
    return json.loads(Workdir(workdir).trackers.read_text())[name]["tracked_as"], written


def log_records(data):
    """The payloads of a file in LevelDB's log format, after the 7 bytes that W&B begins it with."""
    at, part = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part, at = part + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield part
            part = b""


def test_wandb_offline(text_file, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_RUN_ID", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    id_, written = tracked(text_file, tmp_path / "run", "wandb")
    found, samples, summary, runs = {}, [], {}, []
    for file in sorted((tmp_path / "run/wandb").glob("offline-run-*/*.wandb")):
        for payload in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(payload)
            if record.HasField("run"):
                runs.append((record.run.run_id, record.run.display_name))
                config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for item in record.history.item:
                key = "/".join(item.nested_key) or item.key
                if key.partition("/")[0] in ("train", "eval"):
                    value = json.loads(item.value_json)
                    assert found.setdefault(key, {}).setdefault(record.history.step.num, value) == value
                elif key == "samples/nrows":
                    samples.append(record.history.step.num)
            for item in record.summary.update:
                summary["/".join(item.nested_key) or item.key] = item.value_json
    assert set(runs) == {(id_, "run")} and config["training"]["steps"] == 6 and id_ == Workdir(tmp_path / "run").run_id
    assert found == {key: values for key, values in written.items() if key.startswith(("train/", "eval/"))}
    assert samples == [0, 3]
    [(_, nll)] = written["test/test/nll"].items()
    recorded = found.get("test/test/nll", {}) or {0: json.loads(summary["test/test/nll"])}
    assert list(recorded.values()) == [nll]


def test_mlflow_in_the_workdir(text_file, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    id_, written = tracked(text_file, tmp_path / "run", "mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/run/mlflow/mlflow.db")
    run = client.get_run(id_)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run") and run.data.params["training.steps"] == "6"
    for key, values in written.items():
        assert {m.step: m.value for m in client.get_metric_history(id_, key)} == pytest.approx(values), key
        assert len(client.get_metric_history(id_, key)) == len(values)
    names = sorted(file.path for file in client.list_artifacts(id_, "samples"))
    assert names == ["samples/selected.jsonl", "samples/step_0.jsonl", "samples/step_3.jsonl"]
    assert os.path.commonpath([tmp_path, *map(str, (tmp_path / "run/mlflow/artifacts").rglob("*.jsonl"))]) == str(
        tmp_path
    )


def test_aim_in_the_workdir(text_file, tmp_path, monkeypatch):
    aim = pytest.importorskip("aim")
    monkeypatch.delenv("AIM_REPO", raising=False)
    id_, written = tracked(text_file, tmp_path / "run", "aim")
    options = {"system_tracking_interval": None, "log_system_params": False, "capture_terminal_logs": False}
    run = aim.Run(id_, repo=str(tmp_path / "run/aim"), **options)
    found = {}
    for metric in run.metrics():
        steps, (values, *_) = metric.data.items_list()
        found[metric.name] = dict(zip(steps, values))
        assert len(steps) == len(found[metric.name])
    assert found == written and run.name == "run" and run["status"] == "finished"
    assert run["config"]["training"]["steps"] == 6
    run.close()
