"""Where examples come from: sources of records, random-access and index-addressed, whatever the file format."""

from ptft_jax.data.records.base import Record, Records, Skipped, Source
from ptft_jax.data.records.opening import file_names, identity, open_records, open_source
from ptft_jax.data.records.reference import SPLITS, Reference, parse, parted

__all__ = [
    "SPLITS",
    "Record",
    "Records",
    "Reference",
    "Skipped",
    "Source",
    "file_names",
    "identity",
    "open_records",
    "open_source",
    "parse",
    "parted",
]
