"""Names of metrics, SET/NAME: what some of them are called, and whether smaller or larger values are better."""

from __future__ import annotations

from collections.abc import Mapping

from ptft_jax.config.behaviors import BEHAVIOR, direction_of
from ptft_jax.config.metrics import METRICS, OWN, RAW, MetricSpec
from ptft_jax.config.verifiers import OF_CALLS, OWN_ANSWERS, SPREAD, UNSCORED, is_of_answers
from ptft_jax.errors import UserError

SOURCE = "source/nll"  # what the parent knew, in nats per token
AUTO = "auto"


def known(metric: str, metrics: Mapping[str, MetricSpec] = METRICS) -> str:
    """ "min" or "max": which values of `metric` ("SET/NAME") are better; "" where the metric does not say so. `metrics`: those
    that a config may name (its `tables.metrics`)."""
    if metric.startswith(BEHAVIOR):
        return direction_of(metric)
    of, _, name = metric.rpartition("/")
    if is_of_answers(of):  # of scores, larger ones are better
        if name.endswith(SPREAD):
            return ""
        return "min" if name.endswith(UNSCORED) else (OWN_ANSWERS | OF_CALLS).get(name, "max")
    name = name.removeprefix(RAW)
    return metrics[name].mode if name in metrics else OWN.get(name, "")


def direction(metric: str, mode: str, metrics: Mapping[str, MetricSpec] = METRICS) -> str:
    """ "min" or "max": which values of `metric` ("SET/NAME") are better, by the metric itself.

    Args:
      mode: what the config says: "min", "max" or AUTO.
      metrics: as of `known`.

    Raises:
      UserError: the mode contradicts the metric, or is AUTO for a metric whose direction is not known.
    """
    own = known(metric, metrics)
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
