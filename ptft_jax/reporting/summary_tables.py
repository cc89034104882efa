"""What a summary says of transfer, drift and cost, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def before_and_after(before: Mapping[str, float], after: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a metric of a run's end, for people: "-" for what was not measured at its start. A set's loss is left out where it is
    its nll (or mse), as of objectives that add nothing to it."""

    def repeats(name: str) -> bool:
        others = (f"{name.removesuffix('loss')}{other}" for other in ("nll", "mse"))
        return name.endswith("/loss") and any(
            all(values.get(name) == values.get(other) for values in (before, after)) for other in others
        )

    return [
        {"metric": name, "before": before.get(name, "-"), "after": after[name]} for name in after if not repeats(name)
    ]


def measures(summary: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of what was measured; nothing of what was not, and of summaries of versions that did not measure."""
    tables: dict[str, list[dict[str, Any]]] = {"transfer": [], "drift": []}
    for name, one in by_adapter(summary).items():
        who = {"adapter": name} if name else {}
        gained = transfer_rows(one["transfer"]) if one.get("transfer") else []
        tables["transfer"] += [{**who, **row} for row in gained]
        drift = one["drift"] if isinstance(one.get("drift"), list) else []
        tables["drift"] += [
            {**who, "part": r["part"], "distance from start": r["distance"], "relative": percent(r)} for r in drift
        ]
    return [*((title, rows) for title, rows in tables.items() if rows), ("cost", [cost(summary)])]


def by_adapter(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """A summary for each of several adapters by its name, with what it alone gained and how far it alone moved, as that of a run
    with one; of other runs the summary itself for ""."""
    transfers = (summary.get("transfer") or {}).get("adapters")
    if transfers is None:
        return {"": summary}
    drift = summary["drift"]
    drifts = drift.get("adapters") or dict.fromkeys(transfers, drift)
    return {name: {**summary, "transfer": gained, "drift": drifts[name]} for name, gained in transfers.items()}


def transfer_rows(transfer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures as a table for people, one row a set that was measured."""
    names = {"target": "target", "target_test": "target, test", "source": "source", "source_test": "source, test"}
    out = []
    for key, name in names.items():
        found = transfer[key]
        if "missing" in found:
            continue
        change = found["after"] - found["before"]
        share = found.get("forgotten_share")
        meaning = f"gain {-change:+.4f}" if "gain" in found else f"forgetting {change:+.4f}"
        if share is not None:
            meaning += f", {share:.1%} of the {found['learned']:.3f} learned"
        out.append({"nats per token": name, "before": found["before"], "after": found["after"], "": meaning})
    return out


def confusion_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `ptft_jax.objectives.counts.shown` gives as a table for people: a row for each class that there is, a column for each
    that was named."""
    return [
        {"class": name, **{f"as {other}": count for other, count in zip(table["classes"], counts)}}
        for name, counts in zip(table["classes"], table["counts"])
    ]


def percent(row: Mapping[str, Any]) -> str:
    """A relative drift; "-" where it started from 0."""
    return "-" if row["relative"] is None else f"{row['relative']:.3%}"


def cost(summary: Mapping[str, Any]) -> dict[str, Any]:
    """One row: what trains, and what the compiled step needs; "-" for what is not known."""
    step, seconds = summary.get("cost") or {}, summary["step_seconds"]
    flops, mib = step.get("flops"), 2**-20
    return {
        "parameters trained": summary["parameters"]["trainable"],
        "trained MiB": summary["trainable_bytes"] * mib,
        "optimizer MiB": summary["optimizer_bytes"] * mib,
        "GFLOP per step": flops * step["devices"] / 1e9 if flops else "-",
        "arguments MiB": step["argument_bytes"] * mib if step else "-",
        "temporaries MiB": step["temporary_bytes"] * mib if step else "-",
        "outputs MiB": step["output_bytes"] * mib if step else "-",
        "peak MiB": step["peak_bytes"] * mib if step else "-",
        "ms per step": seconds * 1e3 if seconds else "-",
    }
