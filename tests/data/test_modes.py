"""What is written for others has the mode that the user's umask gives."""

import os

import pytest

from ptft_jax.data import cache


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_files_and_folders_have_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = cache.folder_beside(tmp_path / "out")
        (folder / "in").mkdir()
        for name in ("private", "in/private"):
            (folder / name).touch(0o600)
        cache.as_new(folder)
        cache.write_atomic(folder / "x.json", lambda path: path.write_text("{}"))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["private", "private", "x.json"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
