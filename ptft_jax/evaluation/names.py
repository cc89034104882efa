"""Names of metrics, SET/NAME: what some of them are called, and whether smaller or larger values are better."""

from __future__ import annotations

from ptft_jax.errors import UserError

SOURCE = "source/nll"  # what the parent knew, in nats per token
RAW = "raw_"  # before the name of a metric: of the parameters themselves, beside their average
AUTO = "auto"
# Whether smaller or larger values of a metric, by the last part of its name, are better.
_DIRECTIONS = {
    "loss": "min",
    "nll": "min",
    "bits_per_byte": "min",
    "z_loss": "min",
    "accuracy": "max",
    "f1_macro": "max",
    "f1_weighted": "max",
}


def known(metric: str) -> str:
    """ "min" or "max": which values of `metric` ("SET/NAME") are better; "" where the metric does not say so."""
    return _DIRECTIONS.get(metric.rpartition("/")[2].removeprefix(RAW), "")


def direction(metric: str, mode: str) -> str:
    """ "min" or "max": which values of `metric` ("SET/NAME") are better, by the metric itself.

    Args:
      mode: what the config says: "min", "max" or AUTO.

    Raises:
      UserError: the mode contradicts the metric, or is AUTO for a metric whose direction is not known.
    """
    own = known(metric)
    if mode != AUTO and own and mode != own:
        better = {"min": "smaller", "max": "larger"}[own]
        raise UserError(
            f"config.select.mode = {mode!r}: {better} values of {metric} are better; leave the mode at {AUTO!r}, or choose another "
            "select.metric"
        )
    if mode == AUTO and not own:
        raise UserError(
            f"config.select.mode = {mode!r}: whether smaller or larger values of {metric} are better is not known: set 'min' or 'max'"
        )
    return own if mode == AUTO else mode
