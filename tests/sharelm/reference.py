"""The model again, in the plainest torch: from named weights, a shape and a sharing to logits, one depth at a time.

It shares no code with `sharelm.model`: matrices are made where they are used, nothing is stacked or cached.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from sharelm.sharing import SoftTying

TRANSPOSES = {
    ("attention", "value"): "key",
    ("attention", "output"): "query",
    ("feed_forward", "down"): "up",
}


def reference_logits(weights, shape, sharing, tokens):
    """Logits [B, T, vocabulary]; `weights` is a state dict, or leaves to differentiate by."""
    if sharing.soft.weight or sharing.soft.final_weight:
        own = tuple(range(sharing.depth))
        sharing = replace(sharing, attention=own, feed_forward=own, soft=SoftTying())
    hidden = weights["embedding"][tokens]
    if sharing.embedding.width:
        hidden = hidden @ weights["expansion"].T
    entered, keys_of = None, {}
    if sharing.streams > 1:
        hidden = torch.stack([hidden] * sharing.streams, dim=2)
    for depth in range(sharing.depth):
        if sharing.injection != "none" and begins_a_loop(sharing, depth):
            if entered is None:
                entered = hidden
            elif sharing.injection == "additive":
                hidden = hidden + entered
            else:
                kept, mixed = weights["injection"].chunk(2, dim=1)
                hidden = hidden @ kept.T + entered @ mixed.T
        if sharing.depth_embedding:
            hidden = hidden + weights["depth_embedding"][depth]
        for place in (0, 1):
            read = hidden
            if sharing.streams > 1:
                read = sum(
                    hidden[:, :, n] * weights["hyper_connections.read"][depth, place, n] for n in range(sharing.streams)
                )
            if place == 0:
                change = attention(weights, shape, sharing, depth, read, keys_of)
            else:
                change = feed_forward(weights, shape, sharing, depth, read)
            hidden = hidden + change if sharing.streams == 1 else connect(weights, depth, place, hidden, change)
    if sharing.streams > 1:
        hidden = sum(hidden.unbind(dim=2))
    hidden = norm(hidden, weights["final_norm.weight"])
    untied = sharing.embedding.head == "untied"
    if sharing.embedding.width:
        hidden = hidden @ weights["head_expansion" if untied else "expansion"]
    return hidden @ weights["head_embedding" if untied else "embedding"].T


def connect(weights, depth, place, streams, change):
    mix, write = weights["hyper_connections.mix"][depth, place], weights["hyper_connections.write"][depth, place]
    count = range(len(write))
    return torch.stack([sum(streams[:, :, n] * mix[n, m] for n in count) + change * write[m] for m in count], dim=2)


def begins_a_loop(sharing, depth):
    for schedule in (sharing.attention, sharing.feed_forward):
        looped = [block for block in schedule if schedule.count(block) > 1]
        if looped:
            return schedule[depth] == looped[0]
    return False


def norm(x, gain):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def gain(weights, sharing, kind, depth, name):
    schedule = getattr(sharing, kind)
    looped = any(schedule.count(block) > 1 for block in schedule)
    if sharing.norms == "per_depth" and looped:
        return weights[f"{kind}_gains.{depth}.{name}.weight"]
    return weights[f"{kind}_blocks.{schedule[depth]}.{name}.weight"]


def matrix(weights, sharing, kind, depth, name):
    """The matrix of this depth; deltas and coefficients lie in the order of the depths that have them."""
    schedule = getattr(sharing, kind)

    def stored(block):
        if kind in sharing.ties and (kind, name) in TRANSPOSES:
            return weights[f"{kind}_blocks.{block}.{TRANSPOSES[kind, name]}.weight"].T
        return weights[f"{kind}_blocks.{block}.{name}.weight"]

    computes = [d for d in range(sharing.depth) if computes_keys(sharing, d) or name not in ("key", "value")]
    whole = stored(schedule[depth])
    if getattr(sharing.atoms, kind) == "learned":
        mixture = weights[f"{kind}_recipes.coefficients.{name}"][computes.index(depth)]
        whole = sum(c * stored(block) for block, c in enumerate(mixture))
    if schedule.count(schedule[depth]) > 1:
        place = [d for d in computes if schedule.count(schedule[d]) > 1].index(depth)
        if getattr(sharing.low_rank, kind):
            scale = getattr(sharing.low_rank, f"{kind}_scale")
            outer, inner = (weights[f"{kind}_recipes.{part}.{name}"][place] for part in ("outer", "inner"))
            whole = whole + scale * outer @ inner
        if kind in sharing.diagonal:
            diagonal = weights[f"{kind}_recipes.diagonal.{name}"][place]
            whole = whole.clone()
            for i, entry in enumerate(diagonal):
                whole[i, i] += entry
    return whole


def computes_keys(sharing, depth):
    return sharing.kv != "first" or sharing.attention.index(sharing.attention[depth]) == depth


def attention(weights, shape, sharing, depth, hidden, keys_of):
    def made(name):
        return matrix(weights, sharing, "attention", depth, name)

    def heads(x):
        return x.unflatten(-1, (-1, shape.width // shape.heads)).transpose(1, 2)

    normed = norm(hidden, gain(weights, sharing, "attention", depth, "norm"))
    query = heads(normed @ made("query").T)
    query = rotate(norm(query, gain(weights, sharing, "attention", depth, "query_norm")), shape)
    if computes_keys(sharing, depth):
        key = heads(normed @ made("key").T)
        key = rotate(norm(key, gain(weights, sharing, "attention", depth, "key_norm")), shape)
        value = heads(normed @ made("value").T)
        repeats = shape.heads // shape.kv_heads
        keys_of[sharing.attention[depth]] = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    key, value = keys_of[sharing.attention[depth]]
    return causal_attention(query, key, value).transpose(1, 2).flatten(2) @ made("output").T


def causal_attention(query, key, value):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ value


def rotate(x, shape):
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * shape.rope_theta ** (-torch.arange(half) / half)
    rotated = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1).contiguous())
    rotated = torch.view_as_real(rotated * torch.polar(torch.ones_like(angles), angles))
    return torch.cat((rotated[..., 0], rotated[..., 1]), dim=-1)


def feed_forward(weights, shape, sharing, depth, hidden):
    def made(name):
        return matrix(weights, sharing, "feed_forward", depth, name).T

    normed = norm(hidden, gain(weights, sharing, "feed_forward", depth, "norm"))
    if shape.activation == "swiglu":
        return (F.silu(normed @ made("gate")) * (normed @ made("up"))) @ made("down")
    return F.gelu(normed @ made("up")) @ made("down")
