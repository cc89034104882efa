"""What may be taken away, and what of it is left."""

import json
import os
import tarfile

import pytest

from ptft_jax.catalog import removal
from ptft_jax.errors import UserError
from ptft_jax.runs import owner as owners
from tests.catalog.test_runs import finished, write
from tests.processes import ptft


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = write(tmp_path / "runs/base", summary=finished(3.0))
    write(tmp_path / "other/child", parent=base)
    return tmp_path


NEEDED = {
    "a parent": lambda child, base: [{"workdir": str(base), "step": 1}],
    "its parent": lambda child, base: [{"workdir": "/gone", "step": 1}, {"workdir": str(base), "step": 1}],
    "from a folder that moved": lambda child, base: [
        {"workdir": "/gone", "relative": os.path.relpath(base, child), "step": 1}
    ],
    "through a link": lambda child, base: [{"workdir": str(base.parent.parent / "link/base"), "step": 1}],
    "one of several": lambda child, base: [{"runs": [{"workdir": str(base), "step": 1, "w": 0.5}]}],
}


@pytest.mark.parametrize("how", NEEDED)
def test_what_others_were_started_from_stays(runs, how):
    child, base = runs / "other/child", runs / "runs/base"
    (runs / "link").symlink_to(runs / "runs")
    (child / "lineage.json").write_text(json.dumps(NEEDED[how](child, base)))
    with pytest.raises(UserError, match=f"--run: other runs were started from these.*\n  {base}: by {child}"):
        removal.chosen(["runs/base"], ".", "--run")
    assert removal.chosen(["other/child", "runs/base"], ".", "--run") == [child, base]  # together they may go
    removal.remove(child)
    assert removal.chosen(["link/base"], ".", "--run") == [base]


def test_a_teacher_stays(runs):
    child, base = runs / "other/child", runs / "runs/base"
    (child / "lineage.json").write_text("[]")
    assert removal.chosen(["runs/base"], ".", "--run") == [base]
    (child / "teacher.json").write_text(json.dumps({"reference": f"{base}@best", "step": 3}))
    with pytest.raises(UserError, match="or learned from them"):
        removal.chosen(["runs/base"], ".", "--run")


def test_what_is_running_stays(runs):
    child = runs / "other/child"
    (child / "owner.json").write_text(json.dumps({"machine": owners.machine(), "process": os.getpid()}))
    with pytest.raises(UserError, match="--run=other/child: it is running"):
        removal.chosen(["other/child"], ".", "--run")


def test_at_the_command_line(runs):
    """A run that is packed is, unpacked, what it was."""
    child = runs / "other/child"
    before = {str(f.relative_to(child)): f.read_bytes() for f in child.rglob("*") if f.is_file()}
    assert (
        f"would delete {child}" in ptft("rm", "other/child", "--dry_run", cwd=runs, check=True).stdout
        and child.exists()
    )
    done = ptft("archive", "other/child", "--out=packed/a.tar.gz", cwd=runs, check=True)
    assert f"deleted {child}" in done.stdout and not child.exists() and os.listdir(runs / "other") == []
    with tarfile.open(runs / "packed/a.tar.gz") as packed:
        packed.extractall(runs / "other", filter="data")
    assert {str(f.relative_to(child)): f.read_bytes() for f in child.rglob("*") if f.is_file()} == before
    again = ptft("archive", "other/child", "--out=packed/a.tar.gz", cwd=runs)
    assert again.returncode == 2 and "is there already" in again.stderr and child.exists()
    done = ptft("rm", "runs/base", cwd=runs)
    assert done.returncode == 2 and "other runs were started from these" in done.stderr
    ptft("rm", "runs/base", "other/child", cwd=runs, check=True)
    assert os.listdir(runs / "runs") == os.listdir(runs / "other") == []
