"""Values and gradients of TRL's losses, kept so that tests without torch compare with them: python -m tests.objectives.stored writes them."""

import json
import pathlib

PLACE = pathlib.Path(__file__).with_name("trl.json")


def read():
    """{name: {"loss", "gradient"}}."""
    return json.loads(PLACE.read_text())["losses"]


def made():
    """The same, by TRL."""
    from tests.objectives import test_policy_live, test_preference_live

    by_name = {name: test_preference_live.of_trl(name) for name in test_preference_live.OURS}
    by_name |= {name: test_preference_live.of_cpo(name) for name in test_preference_live.WITHOUT}
    names = (*test_policy_live.VARIANTS, "rloo")
    by_name |= {f"policy {name}": test_policy_live.of_variant(name) for name in names}
    return {name: {"loss": float(loss), "gradient": gradient.tolist()} for name, (loss, gradient) in by_name.items()}


if __name__ == "__main__":
    import trl

    PLACE.write_text(json.dumps({"trl": trl.__version__, "losses": made()}, indent=1) + "\n")
