"""Formats: what the columns of records mean, and how a record becomes ids and what is learned of them."""

from __future__ import annotations

from ptft_jax.data.formats import answers, pictures, plain, preference, rated, steps
from ptft_jax.data.formats.base import Encoder, Format
from ptft_jax.data.formats.choosing import choose
from ptft_jax.data.formats.layouts import OPTIONS
from ptft_jax.data.formats.reading import Reading
from ptft_jax.data.pictures.decoding import Pixels
from ptft_jax.data.tokenizers import Tokenizer

__all__ = ["OPTIONS", "Encoder", "Format", "Pixels", "Reading", "choose", "encoder"]

ENCODERS = {
    "text": plain.TextEncoder,
    "classification": plain.ClassificationEncoder,
    "classification-pairs": plain.PairClassificationEncoder,
    "regression": plain.RegressionEncoder,
    "regression-pairs": plain.PairRegressionEncoder,
    "tokens": plain.TokensEncoder,
    "messages": answers.ConversationEncoder,
    "sharegpt": answers.ConversationEncoder,
    "alpaca": answers.AlpacaEncoder,
    "prompt-completion": answers.PairEncoder,
    "prompt-messages": answers.MessagePairEncoder,
    "rated": rated.RatedEncoder,
    "rated-messages": rated.RatedMessagesEncoder,
    "rated-text": rated.RatedTextEncoder,
    "steps": steps.StepsEncoder,
    "preference": preference.PreferenceEncoder,
    "preference-messages": preference.MessagePreferenceEncoder,
    "images": pictures.PictureEncoder,
    "labelled-images": pictures.PictureEncoder,
    "captioned-images": pictures.CaptionEncoder,
    "asked-images": pictures.AskedEncoder,
}


def encoder(
    format: Format,
    tokenizer: Tokenizer,
    *,
    template: str = "",
    train_on: str = "assistant",
    pixels: Pixels | None = None,
) -> Encoder:
    """What turns records of a format into examples.

    Args:
      template: a chat template by name, see `ptft_jax.data.chat.template`; "" is the tokenizer's own, which conversations
        need and instructions use where there is one. Pairs of texts are rendered by one only where it is named.
      train_on: see `ptft_jax.data.turns.TrainOn`.
      pixels: of formats of images, what each is made to be.

    Raises:
      UserError: a policy or a template that there is not, at once; what is wrong with a record, when it is encoded.
    """
    if pixels is not None:
        return ENCODERS[format.name](format, tokenizer, template, train_on, pixels)
    return ENCODERS[format.name](format, tokenizer, template, train_on)
