"""What published comparisons of fine-tuning methods say, held against the runs of `experiments.methods`."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

Results = Mapping[str, Any]


def claims(results: Results) -> list[dict[str, str]]:
    """A row a claim whose ways were run: what is said, by whom, what was measured, and whether that agrees.

    A difference between two ways counts where it is at least three times the larger of their standard deviations over seeds;
    where all seeds of a way but one diverged, it has none, and nothing is shown.
    """
    rows = []
    for said, where, ways, judge in _CLAIMS:
        if all(way in results["groups"] for way in ways):
            measured, agrees = judge(results)
            alone = [way for way in ways if results["groups"][way]["seeds"] < 2]
            if alone:
                agrees = f"not shown: one seed of {' and '.join(alone)}"
            rows.append({"said": said, "by": where, "measured": measured, "agrees": agrees})
    return rows


def _verdict(gap: float, spread: float, not_shown: str = "within 3 sd") -> str:
    """Of a claim that `gap` is above 0, where `spread` of it may be chance."""
    return "yes" if gap > spread else "no" if -gap > spread else f"not shown: {not_shown}"


def _difference(a: str, b: str, key: str, sign: int) -> Callable[[Results], tuple[str, str]]:
    """Whether figure `key` of way `a` is above (sign 1) or below (-1) that of `b`."""

    def judge(results: Results) -> tuple[str, str]:
        (mean_a, sd_a), (mean_b, sd_b) = (results["groups"][way][key] for way in (a, b))
        gap, spread = sign * (mean_a - mean_b), 3 * max(sd_a, sd_b)
        return f"{key}: {a} {mean_a:.3f} ± {sd_a:.3f}, {b} {mean_b:.3f} ± {sd_b:.3f}", _verdict(gap, spread)

    return judge


def _both(*judges: Callable[[Results], tuple[str, str]]) -> Callable[[Results], tuple[str, str]]:
    def judge(results: Results) -> tuple[str, str]:
        found = [one(results) for one in judges]
        verdicts = {verdict for _, verdict in found}
        return "; ".join(text for text, _ in found), verdicts.pop() if len(verdicts) == 1 else "in part"

    return judge


def _close(a: str, b: str, key: str, share: float) -> Callable[[Results], tuple[str, str]]:
    """Whether figure `key` of `a` is above `share` of that of `b`."""

    def judge(results: Results) -> tuple[str, str]:
        (first, sd_a), (second, sd_b) = (results["groups"][way][key] for way in (a, b))
        gap, spread = first - share * second, 3 * max(sd_a, share * sd_b)
        verdict = _verdict(gap, spread, f"{share:.0%} lies within 3 sd")
        return f"{key}: {a} {first:.3f} ± {sd_a:.3f}, {b} {second:.3f} ± {sd_b:.3f}: {first / second:.0%}", verdict

    return judge


def measured(rates: Mapping[str, Mapping[str, Any]]) -> dict[float, Mapping[str, float]]:
    """rate -> gain and forgetting, from the lowest on, of the runs that did not diverge."""
    found = {float(rate): outcome for rate, outcome in rates.items() if not outcome.get("diverged")}
    return dict(sorted(found.items()))


def _forgetting_at(results: Results, way: str, gain: float) -> float | None:
    """What the first seed of `way` forgot where it gained so much, between the rates that were tried, from the lowest to its
    best; None where the lowest gained more."""
    best = results["best_rate"][way]
    trail = [outcome for rate, outcome in measured(results["rates"][way]).items() if rate <= best]
    for low, high in itertools.pairwise(trail):
        if low["gain"] <= gain <= high["gain"]:
            share = (gain - low["gain"]) / (high["gain"] - low["gain"] or 1)
            return low["forgetting"] + share * (high["forgetting"] - low["forgetting"])
    return None


def _equal_gain(a: str, b: str) -> Callable[[Results], tuple[str, str]]:
    """Whether `a` forgot less than `b` where both gained as much as the one that gains less gains at best."""

    def judge(results: Results) -> tuple[str, str]:
        gain = min(max(o["gain"] for o in measured(results["rates"][way]).values()) for way in (a, b))
        first, second = (_forgetting_at(results, way, gain) for way in (a, b))
        if first is None or second is None:
            return f"no rate was tried at which both gain {gain:.2f}", "not shown"
        spread = 3 * max(results["groups"][way]["forgetting"][1] for way in (a, b))
        text = f"forgetting at a validation gain of {gain:.2f}: {a} {first:.3f}, {b} {second:.3f}"
        return text, _verdict(second - first, spread)

    return judge


def _rates(results: Results) -> tuple[str, str]:
    """What is left of a way's gain at the rates next to its best, of those that were tried; nothing where it diverged."""
    left = {}
    for name, best in results["best_rate"].items():
        rates = results["rates"][name]
        beside = [0.0 if o.get("diverged") else o["gain"] for rate, o in rates.items() if 0.2 < float(rate) / best < 5]
        if max(beside) > 0:
            left[name] = min(beside) / max(beside)
    if not left:
        return "nothing was gained", "not shown"
    worst = min(left, key=left.get)
    lose = [name for name, share in left.items() if share < 0.9]
    text = f"at a rate three times off, {len(lose)} of {len(left)} ways lose a tenth of their gain, at worst ({worst}) {1 - left[worst]:.0%}"
    return text, "yes" if lose else "no"


def _hull(results: Results) -> tuple[str, str]:
    """Whether some average of start and end loses less than in proportion."""
    rows = results["averages"]["wise"]
    first, last = rows[0], rows[-1]
    gained, forgot = first["target"] - last["target"], last["source"] - first["source"]
    if gained <= 0 or forgot <= 0:
        return f"gained {gained:.3f}, forgot {forgot:.3f}", "not shown"
    best = max(rows, key=lambda r: (first["target"] - r["target"]) / gained - (r["source"] - first["source"]) / forgot)
    kept, paid = (first["target"] - best["target"]) / gained, (best["source"] - first["source"]) / forgot
    return (
        f"at {best['alpha']:g}: {kept:.0%} of the gain for {paid:.0%} of the forgetting",
        "yes" if kept > paid + 0.05 else "no",
    )


def _soup(results: Results) -> tuple[str, str]:
    averages = results["averages"]
    if "soup" not in averages:
        return "fewer than two seeds to average", "not shown"
    best = min(m["target"] for m in averages["members"])
    mean = statistics.mean(m["target"] for m in averages["members"])
    text = f"target loss: soup {averages['soup']['target']:.3f}, best member {best:.3f}, mean {mean:.3f}"
    return text, "yes" if averages["soup"]["target"] <= best else "no"


_CLAIMS: tuple[tuple[str, str, tuple[str, ...], Callable[[Results], tuple[str, str]]], ...] = (
    (
        "LoRA comes near full fine-tuning",
        "Hu et al. 2021, table 2: GLUE 87.2 against 86.4",
        ("LoRA", "full"),
        _close("LoRA", "full", "gain", 0.95),
    ),
    (
        "LoRA learns less and forgets less",
        "Biderman et al. 2024",
        ("LoRA", "full"),
        _both(_difference("LoRA", "full", "gain", -1), _difference("LoRA", "full", "forgetting", -1)),
    ),
    (
        "... also where both learn the same",
        "Biderman et al. 2024, their trade-off curves",
        ("LoRA", "full"),
        _equal_gain("LoRA", "full"),
    ),
    (
        "DoRA gains more than LoRA",
        "Liu et al. 2024; PEFT's comparison has 46.9 against 47.8",
        ("DoRA", "LoRA"),
        _difference("DoRA", "LoRA", "gain", 1),
    ),
    (
        "PiSSA gains more than LoRA",
        "Meng et al. 2024, table 1",
        ("PiSSA", "LoRA"),
        _difference("PiSSA", "LoRA", "gain", 1),
    ),
    (
        "a base in NF4 costs nothing",
        "Dettmers et al. 2023, table 3",
        ("LoRA on NF4", "LoRA"),
        _close("LoRA on NF4", "LoRA", "gain", 0.97),
    ),
    (
        "prompt tuning gains least where the model is small",
        "Lester et al. 2021, figure 1; PEFT's comparison has 34.3 against LoRA's 47.8",
        ("prompt", "LoRA"),
        _difference("prompt", "LoRA", "gain", -1),
    ),
    (
        "IA3 comes near LoRA",
        "PEFT's comparison: 45.5 against 47.8",
        ("IA3", "LoRA"),
        _close("IA3", "LoRA", "gain", 0.95),
    ),
    (
        "rotations (OFT) gain as much as LoRA",
        "PEFT's comparison: 49.1 against 47.8",
        ("OFT", "LoRA"),
        _close("OFT", "LoRA", "gain", 0.97),
    ),
    (
        "an adapter beside the MLP gains more than one behind it",
        "He et al. 2022, table 3",
        ("parallel", "Pfeiffer"),
        _difference("parallel", "Pfeiffer", "gain", 1),
    ),
    (
        "replay forgets less",
        "de Masson d'Autume et al. 2019; Scialom et al. 2022",
        ("replay 25%", "full"),
        _difference("replay 25%", "full", "forgetting", -1),
    ),
    (
        "a hold by Fisher information forgets less",
        "Kirkpatrick et al. 2017",
        ("EWC", "full"),
        _difference("EWC", "full", "forgetting", -1),
    ),
    (
        "distillation to the parent forgets less",
        "Li & Hoiem 2016",
        ("distillation", "full"),
        _difference("distillation", "full", "forgetting", -1),
    ),
    (
        "a pull to the start (L2-SP) forgets less",
        "Li et al. 2018; Barone et al. 2017",
        ("L2-SP", "full"),
        _difference("L2-SP", "full", "forgetting", -1),
    ),
    (
        "smooth predictions (R3F) forget less",
        "Aghajanyan et al. 2021: fewer representations collapse",
        ("R3F", "full"),
        _difference("R3F", "full", "forgetting", -1),
    ),
    (
        "gradual unfreezing and lower rates below keep gains and forget less",
        "Howard & Ruder 2018",
        ("gradual unfreezing", "layer-wise rates", "full"),
        _both(
            *(
                judge
                for way in ("gradual unfreezing", "layer-wise rates")
                for judge in (_close(way, "full", "gain", 0.95), _difference(way, "full", "forgetting", -1))
            )
        ),
    ),
    (
        "averaging start and end keeps more than it costs",
        'Wortsman et al. 2022, "Robust fine-tuning"',
        ("full",),
        _hull,
    ),
    ("a soup is at least as good as its best member", 'Wortsman et al. 2022, "Model soups"', ("full",), _soup),
    ("the learning rate decides", "PEFT's comparison: prompt tuning 34.3 or 5.7, norms 0.0", (), _rates),
)
