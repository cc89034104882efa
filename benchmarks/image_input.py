"""What reading and varying images costs: python -m benchmarks.image_input

All make batches of 224 x 224 pixels out of a folder of JPEGs, by a random part made as large as that, a flip and other colors, each with
one worker: a thread of ours, a process of theirs. Ours decodes an image when a run first sees it, and keeps its pixels; theirs decode it every time.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import peers, turns

COUNT, SIDE, SIZE, ROWS = 512, 256, 224, 32
OURS = ("ptft_jax, first pass", "ptft_jax, later passes")
THEIRS = {
    "torchvision": ("torch", "torchvision", "PIL"),
    "Pillow and torch's DataLoader": ("torch", "PIL"),
}
CROP, COLOR = 0.35, 0.4


def written(folder: pathlib.Path, count: int, side: int) -> None:
    """JPEGs of two classes with about as much detail as photos."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for n in range(count):
        smooth = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3)).astype(np.uint8))
        pixels = np.asarray(smooth.resize((side, side), Image.Resampling.BICUBIC), np.int64)
        pixels = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        path = folder / "ab"[n % 2] / f"{n}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def rows(folder: pathlib.Path, side: int, size: int) -> Any:
    """The images of a folder as rows of a run, each decoded to `side` pixels where the cache has it not yet."""
    from ptft_jax import config as configs
    from ptft_jax.data import class_names, filling, source_splits
    from ptft_jax.data import tokenizers as tok
    from ptft_jax.data.builders.pictures import ClassedPictures
    from ptft_jax.data.pictures import settled

    values = configs.default().to_dict()
    values["model"] |= {
        "image_size": size,
        "patch_size": size,
        "max_length": 2,
        "causal": False,
        "head": "classes",
        "classes": 2,
    }
    values["data"] |= {"source": f"images:{folder}", "workers": 1}
    values["data"]["images"]["size"] = side
    values["data"]["augment"] |= {"crop": CROP, "flip": 0.5, "color": COLOR}
    values["objective"]["name"] = "classification"
    settled.complete(values)
    config = configs.check(values)
    builder = ClassedPictures.of_images(config.objective, config.model, config.data)
    found = source_splits.tokenized(config.data, config.data.source, "train", tok.ByteTokenizer(), builder.kinds)
    found, _ = class_names.numbered(found, class_names.NEW)
    return filling.filled(config.data, found, builder, partial=False).rows


def batches(made: Any) -> Iterator[Any]:
    """The training batches of such rows, without end."""
    from ptft_jax.data.batches import training
    from ptft_jax.data.mixture import Mixture

    mixture = Mixture(["all"], [1.0], [len(made)], batch_size=ROWS)
    return training([made], mixture, batch_size=ROWS, seed=0, start=0, prefetch=2)


@contextlib.contextmanager
def cache(folder: pathlib.Path) -> Iterator[None]:
    """A cache of its own."""
    before = os.environ.get("PTFT_CACHE")
    os.environ["PTFT_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("PTFT_CACHE") if before is None else os.environ.update(PTFT_CACHE=before)


def theirs(name: str, folder: pathlib.Path, size: int) -> Iterator[Any]:
    """The batches of a peer, without end: uint8 [B, C, H, W] and classes."""
    import torch

    data = _torchvision(folder, size) if name == "torchvision" else _Pillow(folder, size)
    how: dict[str, Any] = dict(
        num_workers=1, persistent_workers=True, multiprocessing_context="spawn"
    )  # JAX has threads
    loader = torch.utils.data.DataLoader(data, ROWS, shuffle=True, drop_last=True, **how)
    while True:
        yield from loader


def _torchvision(folder: pathlib.Path, size: int) -> Any:
    from torchvision import datasets, transforms

    steps = (
        transforms.RandomResizedCrop(size, scale=(CROP, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(COLOR, COLOR, COLOR),
        transforms.PILToTensor(),
    )
    return datasets.ImageFolder(str(folder), transforms.Compose(steps))


class _Pillow:
    """The same by Pillow alone, as a data set of torch's."""

    def __init__(self, folder: pathlib.Path, size: int):
        self._paths, self._size = sorted(folder.glob("*/*.jpg")), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import numpy as np
        import torch
        from PIL import Image, ImageEnhance, ImageOps

        path, rng = self._paths[index], np.random.default_rng()
        image = Image.open(path).convert("RGB")
        area, ratio = rng.uniform(CROP, 1) * image.width * image.height, np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        wide, tall = min(np.sqrt(area * ratio), image.width), min(np.sqrt(area / ratio), image.height)
        left, top = rng.uniform(0, image.width - wide), rng.uniform(0, image.height - tall)
        box = (left, top, left + wide, top + tall)
        image = image.resize((self._size, self._size), Image.Resampling.BILINEAR, box=box)
        image = ImageOps.mirror(image) if rng.random() < 0.5 else image
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(rng.uniform(1 - COLOR, 1 + COLOR))
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()), int(path.parent.name == "b")


def measure(*, tiny: bool = False) -> dict[str, Any]:
    """{"images": {loader: seconds per image, as `benchmarks.turns.summary` has them}, "absent": peers that were not measured -> why}, or
    "absent" alone: why nothing was."""
    if why := peers.lacks(("PIL",)):
        return {"absent": why}
    count, side, size, least = (ROWS * 2, 32, 24, 0.0) if tiny else (COUNT, SIDE, SIZE, 0.3)
    missing = {name: why for name, needs in THEIRS.items() if (why := peers.lacks(needs))}
    with tempfile.TemporaryDirectory() as name:
        here = pathlib.Path(name)
        folder = here / "images"
        folder.mkdir()
        written(folder, count, side)
        kept = iter(range(10**6))

        def first() -> None:
            """Decodes, and goes once through what there is."""
            with cache(here / f"cache{next(kept)}"):
                made = rows(folder, side, size)
                _drain(batches(made), len(made) // ROWS)

        with cache(here / "cache"):
            made = rows(folder, side, size)
        number = len(made) // ROWS
        sides: dict[str, Callable[[], None]] = {OURS[0]: first}
        later = batches(made)
        sides[OURS[1]] = lambda: _drain(later, number)
        for peer in THEIRS:
            if peer not in missing:
                source = theirs(peer, folder, size)
                sides[peer] = lambda source=source: _drain(source, count // ROWS)
        images = {name: count if name in THEIRS else number * ROWS for name in sides}
        found = turns.summary(turns.alternate(sides, seconds=0.0 if tiny else 60.0, least=least))
    return {
        "images": {name: {k: v / images[name] for k, v in row.items()} for name, row in found.items()},
        "absent": missing,
    }


def _drain(source: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(source)


def main() -> None:
    for name, row in measure()["images"].items():
        print(
            f"{name:<30} {1 / row['seconds']:,.0f} images per second ({1 / row['high']:,.0f} to {1 / row['low']:,.0f})"
        )


if __name__ == "__main__":
    main()
