"""Writes golden.json, the PyTorch side of test_gpt2.py: python -m tests.parity.make_golden (needs torch)."""

import json
import pathlib

GOLDEN = pathlib.Path(__file__).with_name("golden.json")


def compute():
    """Logits of the first batch (a sample of them) and the losses of 100 AdamW steps, by PyTorch in float32."""
    import torch

    from benchmarks import torch_gpt
    from tests.parity import problem

    torch.manual_seed(0)
    model = torch_gpt.GPT(**problem.SHAPE)
    torch_gpt.load(model, problem.weights())
    batches = list(problem.batches())
    with torch.no_grad():
        logits = model(torch.tensor(batches[0][0]))
    return {
        "torch": torch.__version__,
        "logits": logits[::3, ::7, ::17].flatten().tolist(),
        "losses": torch_gpt.train(model, batches, **problem.ADAMW),
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(compute()) + "\n")
