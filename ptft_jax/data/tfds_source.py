"""Text from TensorFlow Datasets, read without TensorFlow (ArrayRecord files through `tfds.data_source`)."""

from __future__ import annotations

from typing import Any

from ptft_jax.errors import UserError, nearest

_ALIASES = {"validation": ("validation", "val", "valid", "dev"), "test": ("test",), "train": ("train",)}


def load(name: str, split: str, data_dir: str, feature: str) -> tuple[list[tuple[str, str]], bool]:
    """The (name, text) of every example, and whether they are the dataset's own `split`.

    A dataset that names train, validation and test is used as it is. Where one is missing, all of its "train" is
    returned with False, and the caller divides it.

    Raises:
      UserError: unknown dataset, one that cannot be prepared or read here (with what to install), no text feature.
    """
    import tensorflow_datasets as tfds

    options = {"data_dir": data_dir} if data_dir else {}
    try:
        builder = tfds.builder(name, **options)
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(
            f"config.data.source = 'tfds:{name}': TFDS knows no such dataset{nearest(name, tfds.list_builders(with_community_datasets=False))}"
        ) from None
    except (ImportError, ValueError, RuntimeError) as e:
        raise UserError(f"config.data.source = 'tfds:{name}': {_reason(e)}") from e
    if not builder.is_prepared():
        _prepare(builder, name)
    text = _text_feature(builder, name, feature)
    have = {kind: next((a for a in names if a in builder.info.splits), "") for kind, names in _ALIASES.items()}
    own = all(have.values())
    if not have["train"]:
        raise UserError(f"config.data.source = 'tfds:{name}': no split 'train' among {', '.join(builder.info.splits)}")
    chosen = have[split] if own else have["train"]
    try:
        rows = builder.as_data_source(split=chosen)
    except (NotImplementedError, ImportError) as e:
        raise UserError(
            f"config.data.source = 'tfds:{name}': its files in {builder.data_path} are not ArrayRecord, the format that is "
            f"read without TensorFlow ({_reason(e)}). Prepare it again, once, where TensorFlow is installed: "
            f"tfds.builder({name!r}).download_and_prepare(file_format='array_record')"
        ) from e
    pairs = []
    for i in range(len(rows)):
        value = rows[i][text]
        pairs.append((f"{name}/{chosen}/{i}", value.decode("utf-8") if isinstance(value, bytes) else str(value)))
    return pairs, own


def _prepare(builder: Any, name: str) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as e:
        raise UserError(
            f"config.data.source = 'tfds:{name}': preparing this dataset needs more than reading it does ({_reason(e)}). "
            "Install it, once, with: pip install 'ptft_jax[tfds]' (TensorFlow for CPU); afterwards the prepared files are "
            "read without it"
        ) from e
    except Exception as e:  # TFDS builders run code of their own: downloads, checksums, parsing
        raise UserError(
            f"config.data.source = 'tfds:{name}': TFDS could not download and prepare it into {builder.data_path}: {_reason(e)}"
        ) from e


def _text_feature(builder: Any, name: str, wanted: str) -> str:
    import tensorflow_datasets as tfds

    texts = sorted(k for k, f in builder.info.features.items() if isinstance(f, tfds.features.Text))
    if wanted:
        if wanted not in texts:
            raise UserError(
                f"config.data.tfds_feature = {wanted!r}: {name} has the text features {', '.join(texts)}{nearest(wanted, texts)}"
            )
        return wanted
    if len(texts) != 1:
        raise UserError(
            f"config.data.source = 'tfds:{name}': expected one text feature, found {', '.join(texts) or 'none'}; "
            "name it with config.data.tfds_feature"
        )
    return texts[0]


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300]
