"""Greedy generation for a batch of prompts of any lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from sharelm.errors import InputError
from sharelm.model.decoder import Decoder


@torch.inference_mode()
def generate(model: Decoder, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """The `new_tokens` tokens that greedily follow each prompt, the same as if it were generated alone.

    Raises `InputError` for an empty prompt and for one that leaves no room in the model's context.
    """
    if not prompts:
        return []
    context, lengths = model.shape.context, [len(prompt) for prompt in prompts]
    for number, length in enumerate(lengths):
        if not length:
            raise InputError(f"prompts[{number}] is empty; a prompt needs at least one token")
        if length + new_tokens > context:
            raise InputError(
                f"prompts[{number}] has {length} tokens; with new_tokens = {new_tokens} that is more than "
                f"the context of {context}"
            )
    device = model.device
    width = max(lengths)
    tokens = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=device)
    caches = model.caches(len(prompts), width + new_tokens)
    hidden = model.hidden(tokens, caches)
    caches.keep(lengths)
    last = torch.tensor(lengths, device=device) - 1
    following = _greedy(model.head(hidden[torch.arange(len(prompts), device=device), last]))
    generated = [following]
    for _ in range(new_tokens - 1):
        following = _greedy(model(following, caches=caches)[:, -1])
        generated.append(following)
    rows: list[list[int]] = torch.cat(generated, dim=1)[:, :new_tokens].tolist()
    return rows


def _greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row, [B, 1]."""
    return logits.argmax(dim=-1, keepdim=True)
