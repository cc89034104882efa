"""What a summary says of transfer, drift and cost, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptft_jax.evaluation import transfer


def measures(summary: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of what was measured; nothing of what was not, and of summaries of versions that did not measure."""
    out = []
    gained = transfer.rows(summary["transfer"]) if summary.get("transfer") else []
    if gained:
        out.append(("transfer", gained))
    drift = summary.get("drift")
    if isinstance(drift, list):
        rows = [{"part": r["part"], "distance from start": r["distance"], "relative": percent(r)} for r in drift]
        out.append(("drift", rows))
    out.append(("cost", [cost(summary)]))
    return out


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
        "GFLOP a step": flops * step["devices"] / 1e9 if flops else "-",
        "arguments MiB": step["argument_bytes"] * mib if step else "-",
        "temporaries MiB": step["temporary_bytes"] * mib if step else "-",
        "outputs MiB": step["output_bytes"] * mib if step else "-",
        "peak MiB": step["peak_bytes"] * mib if step else "-",
        "ms a step": seconds * 1e3 if seconds else "-",
    }
