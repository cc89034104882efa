"""A GPT-2-like model in PyTorch, written for comparison only: its own attention, masks and optimizer setup.

Shares no code with ptft_jax. Weights come in by name from `weights.py`, in PyTorch's [out, in] layout.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, fused=False):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)
        self.fc = nn.Linear(width, 4 * width)
        self.fc_out = nn.Linear(4 * width, width)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln_1(x)).split(d, dim=2)
        q, k, v = (a.view(b, t, self.heads, d // self.heads).transpose(1, 2) for a in (q, k, v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf"))
            y = scores.softmax(-1) @ v
        y = y.transpose(1, 2).reshape(b, t, d)
        x = x + self.proj(y)
        return x + self.fc_out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, vocab, length, layers, width, heads, fused=False):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, fused) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, eps=1e-5)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T


def load(model, flat):
    """Copies ptft_jax-named numpy arrays {path: array} into the model."""

    def put(target, array):
        with torch.no_grad():
            target.copy_(torch.as_tensor(array))

    put(model.wte.weight, flat["embed/tokens/embedding"])
    put(model.wpe.weight, flat["embed/positions/embedding"])
    put(model.ln_f.weight, flat["final_norm/scale"])
    put(model.ln_f.bias, flat["final_norm/bias"])
    for i, block in enumerate(model.blocks):
        get = lambda name: flat[f"blocks/{name}"][i]  # noqa: B023, E731
        for ours, theirs in (("attention_norm", block.ln_1), ("mlp_norm", block.ln_2)):
            put(theirs.weight, get(f"{ours}/scale"))
            put(theirs.bias, get(f"{ours}/bias"))
        parts = ("query", "key", "value")
        put(block.qkv.weight, torch.cat([torch.tensor(get(f"attention/{p}/kernel").T.copy()) for p in parts]))
        put(block.qkv.bias, torch.cat([torch.tensor(get(f"attention/{p}/bias")) for p in parts]))
        for ours, theirs in (("attention/out", block.proj), ("mlp/up", block.fc), ("mlp/down", block.fc_out)):
            put(theirs.weight, get(f"{ours}/kernel").T.copy())
            put(theirs.bias, get(f"{ours}/bias"))


def train(model, batches, *, learning_rate, betas, eps, weight_decay, clip):
    """The losses of AdamW on (tokens, targets) batches; biases and norms are not decayed."""
    decay = [p for n, p in model.named_parameters() if n.endswith("weight") and "ln_" not in n]
    rest = [p for n, p in model.named_parameters() if not (n.endswith("weight") and "ln_" not in n)]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps)
    losses = []
    for tokens, targets in batches:
        logits = model(torch.tensor(tokens))
        loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses
