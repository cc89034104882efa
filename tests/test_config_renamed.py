"""Settings that were renamed: the old name is an error in a user's config, and read in what a run recorded."""

import json

import pytest

from ptft_jax import config as configs
from ptft_jax.config import files, renamed
from ptft_jax.errors import UserError
from ptft_jax.runs.source import refuse_changed
from ptft_jax.runs.workdir import Workdir
from ptft_jax.verbs import command

OLD = {"tune": {"method": "prefix", "prefix": {"length": 3, "reparametrise": 8}}}
SAYS = "config.tune.prefix.reparametrise is now config.tune.prefix.reparameterize"


def test_every_new_name_is_a_setting_and_no_old_one_is():
    paths = {path for path, _ in configs.fields()}
    assert set(renamed.RENAMED.values()) <= paths and not set(renamed.RENAMED) & paths


def test_an_old_name_is_an_error(tmp_path):
    with pytest.raises(UserError) as found:
        configs.check(OLD)
    assert str(found.value) == SAYS
    with pytest.raises(UserError) as found:
        command._check_settings(["ptft", "--config.tune.prefix.reparametrise=8"], ())
    assert str(found.value) == SAYS.replace("config.", "--config.")
    file = tmp_path / "mine.py"
    file.write_text(
        "from ptft_jax import config\n\n\ndef get_config():\n    c = config.default()\n"
        "    c.tune.prefix.reparametrise = 8\n    return c\n"
    )
    with pytest.raises(UserError) as found:
        files.load(str(file))
    assert str(found.value) == f"{file}:6: {SAYS}"


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    """Its config.json, what its checkpoints know of it, and as the config of another run."""
    before = configs.check({"tune": {"method": "prefix", "prefix": {"length": 3}}}).as_dict()
    del before["tune"]["prefix"]["reparameterize"]
    before["tune"]["prefix"]["reparametrise"] = 8
    run = Workdir(tmp_path)
    run.config.write_text(json.dumps(before))
    section = run.read_config()
    assert section.tune.prefix.reparameterize == 8
    refuse_changed(tmp_path, {"step": 0, "config": before}, section)
    other = configs.check({"tune": {"method": "prefix", "prefix": {"length": 3, "reparameterize": 9}}})
    with pytest.raises(UserError, match="tune.prefix.reparameterize: 8 -> 9"):
        refuse_changed(tmp_path, {"step": 0, "config": before}, other)
    assert files.load(str(run.config)).tune.prefix.reparameterize == 8
    assert "reparametrise" in before["tune"]["prefix"], "what was given is not changed"
