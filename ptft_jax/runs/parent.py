"""What a run can start from: another run's checkpoint, or weights of another library."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from ptft_jax import config as configs
from ptft_jax.data.options import DataOptions
from ptft_jax.data.tokenizers import Tokenizer
from ptft_jax.model.quantized import Quantization

# How a leaf (path of a stored leaf, shape) is laid out over devices.
Layout = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


class Parent(Protocol):
    """Parameters that are there already, with what has to be known to use them. Nothing is read before it is asked for.

    `ptft_jax.runs.source.Source` is a run's checkpoint, `ptft_jax.interop.pretrained.Pretrained` a folder or file of weights.
    """

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def reference(self) -> str:
        """How it can be found again."""

    @property
    def config(self) -> configs.Section:
        """The whole config, of a run as it was resolved."""

    @property
    def fields(self) -> dict[str, Any]:
        """The structural fields of its `config.model`, and `vocab_size`."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None of models of images. Raises UserError where it is missing or has changed."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes that its head scores, in their order; () where they have none, or it scores no classes."""

    @property
    def data(self) -> DataOptions | None:
        """The data it was trained on; None where that is not known."""

    @property
    def adapter(self) -> Any:
        """What was added to its model (`ptft_jax.adapters.base.Method`), or None."""

    @property
    def quantization(self) -> Quantization | None:
        """How its base is quantized; None = not."""

    @property
    def step(self) -> int:
        """The optimizer updates that it was trained for, as far as is known."""

    def parameters(
        self,
        layout: Layout,
        dtype: str = "float32",
        *,
        weights: str = "auto",
        merged: bool = True,
        merge_into: str = "",
        wide: Sequence[str] = (),
        **model: Any,
    ) -> dict[str, Any]:
        """The whole parameters, nested by path.

        Args:
          layout: where each leaf goes; it lands there directly.
          dtype: what imported weights are kept in; a run's are as they were saved.
          weights: "raw", "ema", or "auto" for the average where one was kept.
          merged: fold the adapter into its base, giving the parameters of a plain model.
          merge_into: of a run on a quantized base, "dequantized" or "original": which kernels the adapter is folded into.
          wide: paths that are read in float32 whatever `dtype` is.
          model: fields of the head that is wanted (`ptft_jax.model.spec.HEAD`), of imported weights; and sizes of images and patches
            (`ptft_jax.model.spec.SIZES`) that they are resampled for.

        Raises:
          UserError: they are damaged, or of another form.
        """

    def lineage(self, fingerprint: str) -> list[dict[str, Any]]:
        """The chain behind a run that starts from this one with the fingerprint `fingerprint`, nearest first."""

    def relative_to(self, workdir: pathlib.Path) -> str:
        """Its place seen from a workdir, so that both may move together; "" where that means nothing."""
