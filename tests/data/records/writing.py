"""The same records in every format: a folder with a file for each split."""

import csv
import gzip
import io
import json

from ptft_jax.data.records import open_records

SPLITS = ("train", "validation", "test")


def lines(records):
    return "".join(json.dumps(r, ensure_ascii=i % 2 == 0) + "\n" for i, r in enumerate(records)).encode()


def _zst(records):
    import zstandard

    half = len(records) // 2  # two frames, as appended files have
    return zstandard.compress(lines(records[:half])) + zstandard.compress(lines(records[half:]))


def _parquet(records):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file, row_group_size=4)
    return file.getvalue()


def _arrow(records):
    import pyarrow as pa

    file, table = io.BytesIO(), pa.Table.from_pylist(records)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return file.getvalue()


def _stream(records):
    import pyarrow as pa

    file, table = io.BytesIO(), pa.Table.from_pylist(records)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=4)
    return file.getvalue()


def _csv(records):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, records[0])
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


FILES = {  # name: (kind, suffix, records -> bytes)
    "jsonl": ("jsonl", ".jsonl", lines),
    "gz": ("jsonl", ".ndjson.gz", lambda records: gzip.compress(lines(records), mtime=0)),
    "zst": ("jsonl", ".jsonl.zst", _zst),
    "list": ("jsonl", ".json", lambda records: json.dumps(records, indent=2, ensure_ascii=False).encode()),
    "parquet": ("parquet", ".parquet", _parquet),
    "arrow": ("arrow", ".arrow", _arrow),
    "stream": ("arrow", ".arrows", _stream),
    "csv": ("csv", ".csv", _csv),
}


def write(name, folder, **splits):
    """Writes the records of each split, and returns the reference of the folder."""
    folder = folder / name
    folder.mkdir(parents=True)
    if name == "arrayrecord":
        from array_record.python import array_record_module

        for split, records in splits.items():
            writer = array_record_module.ArrayRecordWriter(str(folder / f"{split}.array_record"), "group_size:1")
            for record in records:
                writer.write(json.dumps(record).encode())
            writer.close()
        return f"arrayrecord:{folder}"
    if name == "hf":
        import datasets

        datasets.disable_progress_bars()
        tables = {split: datasets.Dataset.from_list(records) for split, records in splits.items()}
        datasets.DatasetDict(tables).save_to_disk(str(folder))
        return f"hf:{folder}"
    if name == "tfds":
        from ptft_jax.data.records.tfds_builder import write_tfds

        write_tfds({split: Listed(records) for split, records in splits.items()}, "written", "1.0.0", folder)
        return f"tfds:written?dir={folder}"
    kind, suffix, encode = FILES[name]
    for split, records in splits.items():
        (folder / f"{split}{suffix}").write_bytes(encode(records))
    return f"{kind}:{folder}"


class Listed(list):
    """Records in memory, for `write_tfds`."""

    reference = "a list"


def opened(reference, **options):
    """Every split."""
    return {split: open_records(reference, split, **({"held_out": 0.1} | options)) for split in SPLITS}
