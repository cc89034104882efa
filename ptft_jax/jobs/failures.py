"""What gcloud, kubectl and sbatch say when they fail, and what to do about it."""

from __future__ import annotations

import dataclasses
import re

from ptft_jax.errors import listed


class Failed(Exception):
    """A job that came to nothing, for a reason that is not what was typed."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of failure.

    Attributes:
      pattern: of what is said.
      advice: what it means, and what to do.
      passes: whether it may be gone when one tries again.
    """

    name: str
    pattern: str
    advice: str
    passes: bool = False


# The first that fits; capacity before quota, as both are RESOURCE_EXHAUSTED.
KINDS = (
    # First: gcloud adds that one should log in.
    Kind(
        "offline",
        r"Max retries exceeded|name resolution|Name or service not known|could not resolve|Unable to connect to the server",
        "there is no network here",
        True,
    ),
    Kind(
        "stockout",
        r"no more capacity|insufficient (reserved )?capacity|stock-?out|ZONE_RESOURCE_POOL_EXHAUSTED|not enough resources",
        "the zone has none free now: wait longer (--max_wait), or take another --zone, a smaller --topology or --spot",
        True,
    ),
    Kind(
        "quota",
        r"quota",
        "the project may not have so many there: ask for more (console: IAM & Admin, Quotas, TPU API), take a smaller --topology or another --zone; "
        "requests that have failed or been suspended count until they are deleted (gcloud compute tpus queued-resources list)",
    ),
    Kind(
        "disabled",
        r"SERVICE_DISABLED|has not been used in project|API .*not enabled",
        "the project has not switched this API on: gcloud services enable tpu.googleapis.com aiplatform.googleapis.com",
    ),
    Kind(
        "login",
        r"gcloud auth login|active account|Reauthentication|invalid_grant|UNAUTHENTICATED|must be logged in",
        "nobody is logged in: gcloud auth login",
    ),
    Kind(
        "ssh",
        r"return code \[?255|Connection (closed|refused|reset|timed out)|Broken pipe|kex_exchange|publickey|Could not SSH|Network is unreachable"
        r"|failed to connect to backend",
        "the connection was lost, or none is allowed: port 22 needs a firewall rule of the network, and the key may need `ssh-add ~/.ssh/google_compute_engine`",
        True,
    ),
    Kind(
        "permission",
        r"PERMISSION_DENIED|permission|Forbidden|forbidden",
        "the account may not do this: it needs roles/tpu.admin and roles/iam.serviceAccountUser in the project (gcloud auth list shows which account is used)",
    ),
    Kind(
        "exists",
        r"ALREADY_EXISTS|already exists|AlreadyExists",
        "somebody else has one of this name: take another --name",
    ),
    Kind("missing", r"NOT_FOUND|not found|NotFound|was not found", "there is none of this name"),
    Kind(
        "no_jobset",
        r'no matches for kind "JobSet"',
        "the cluster has no JobSet: kubectl apply --server-side -f https://github.com/kubernetes-sigs/jobset/releases/download/VERSION/manifests.yaml",
    ),
    Kind(
        "transient",
        r"UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|try again|temporarily|timed out",
        "the service does not answer",
        True,
    ),
)
_OTHER = Kind("other", "", "")


# Of services that do not answer: the same command may be run again.
UNANSWERED = ("offline", "transient")


def kind(text: str) -> Kind:
    """Which kind of failure a text tells of."""
    return next((one for one in KINDS if re.search(one.pattern, text, re.IGNORECASE)), _OTHER)


def told(what: str, text: str) -> str:
    """A message: what failed, what to do about it, and what was said."""
    found = kind(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name = {"other": "", "no_jobset": ""}.get(found.name, f" ({found.name})")
    advice = f": {found.advice}" if found.advice else ""
    return f"{what}{name}{advice}{listed(lines[-6:]) if lines else ''}"
