"""Where runs and reports are: paths of a file system; of runs also places in buckets."""

from __future__ import annotations

import pathlib
import re

from ptft_jax.errors import UserError

# Two letters and more: one is a drive of Windows. A single slash is what pathlib leaves of two.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def local(place: str | pathlib.Path, field: str) -> pathlib.Path:
    """The place as a path. Raises UserError, naming what it was given as, where it is a URL, such as one of a bucket: a file
    system would make a folder of that name."""
    if scheme := _SCHEME.match(str(place)):
        raise UserError(
            f"{field}: expected a path of a file system, not a URL ({scheme[1]}://). For a bucket, mount it, and give the path where it "
            "is mounted"
        )
    return pathlib.Path(place)


def run(place: str | pathlib.Path, field: str, new: bool = False) -> pathlib.Path:
    """The folder of a run that is to be read, or to be carried out (`new`: there need be none). Of one in a bucket (gs://, s3://) it is a
    folder of this machine, with the run's files but the arrays of its checkpoints (`ptft_jax.runs.bucket.complete`).

    Raises:
      UserError: naming what it was given as: another URL, a bucket that cannot be read, or no run there.
    """
    if "://" in str(place):
        from ptft_jax.runs import bucket  # which loads what reads data

        if bucket.is_url(place):
            return bucket.copied(str(place), field, new)
    return local(place, field).expanduser()
