"""Small shapes and sharings that several tests build models from."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from sharelm.errors import InputError
from sharelm.model import Decoder
from sharelm.sharing import KINDS, Atoms, Embedding, LowRank, ModelShape, Sharing, SoftTying, build_sharing

SHAPE = ModelShape(vocabulary=97, width=32, heads=4, kv_heads=2, feed_forward=48, context=24)

SHARINGS = {
    "independent": build_sharing("independent", 4),
    "albert": build_sharing("albert", 4),
    "sequence": build_sharing("sequence", 5, blocks=2),
    "cycle": build_sharing("cycle", 4, blocks=2),
    "cycle_reversed": build_sharing("cycle_reversed", 6, blocks=3),
    "middle_cycle": build_sharing("middle_cycle", 6, blocks=4),
    "middle_sequence": build_sharing("middle_sequence", 6, blocks=4),
    "sandwich": build_sharing("sandwich", 5),
    "prelude_core_coda": build_sharing("prelude_core_coda", 6, prelude=1, core=2, coda=1),
    "attention_only": build_sharing("attention_only", 4, blocks=2),
    "feed_forward_only": build_sharing("feed_forward_only", 4),
    "relaxed": build_sharing("relaxed", 4, blocks=2, rank=3),
    "residual": build_sharing("residual", 4, blocks=2, rank=3),
    "transpose": build_sharing("transpose", 3),
    "atoms": build_sharing("atoms", 4, blocks=2),
    "masa": build_sharing("masa", 4, blocks=2),
    "late_loop": build_sharing("late_loop", 5, first=1, last=2),
    "huginn": build_sharing("huginn", 6, prelude=1, core=2, coda=1),
}


def fitting(sharing, shape=SHAPE):
    """The shape, with as many key-value heads as the sharing needs."""
    return replace(shape, kv_heads=shape.heads) if "attention" in sharing.ties else shape


def _dense(schedule):
    numbers = {block: number for number, block in enumerate(sorted(set(schedule)))}
    return tuple(numbers[block] for block in schedule)


def _schedule(depth):
    return st.lists(st.integers(0, depth - 1), min_size=depth, max_size=depth).map(_dense)


def sharings(deepest=4):
    """Any sharing at all, of up to this depth."""
    return st.integers(1, deepest).flatmap(lambda depth: st.builds(Sharing, _schedule(depth), _schedule(depth)))


@st.composite
def shapes(draw):
    """Any small shape: odd sizes, one head or several, grouped or not."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    return ModelShape(
        vocabulary=draw(st.integers(2, 40)),
        width=heads * 2 * draw(st.integers(1, 4)),
        heads=heads,
        kv_heads=kv_heads,
        feed_forward=draw(st.integers(1, 40)),
        context=draw(st.integers(2, 16)),
        activation=draw(st.sampled_from(["swiglu", "gelu"])),
    )


def _degrees(shape):
    """Values of every degree that this shape allows, and of which some compositions are refused."""
    kinds = st.lists(st.sampled_from(KINDS), unique=True).map(tuple)
    rank, mixes = st.integers(0, min(shape.width, shape.feed_forward)), st.sampled_from(["none", "learned", "fixed"])
    scale = st.sampled_from([1.0, 0.5, -2.0])
    return {
        "low_rank": st.builds(LowRank, rank, rank, scale, scale, st.sampled_from(["zero", "svd"])),
        "diagonal": kinds,
        "atoms": st.builds(Atoms, mixes, mixes),
        "ties": kinds,
        "norms": st.sampled_from(["shared", "per_depth"]),
        "depth_embedding": st.booleans(),
        "injection": st.sampled_from(["none", "additive", "linear"]),
        "streams": st.sampled_from([1, 1, 2, 3]),
        "embedding": st.builds(
            Embedding, st.sampled_from(["tied", "untied"]), st.none() | st.integers(1, shape.width - 1)
        ),
        "kv": st.sampled_from(["exact", "first", "last"]),
        "soft": st.sampled_from([SoftTying(), SoftTying(0.1), SoftTying(0.0, 1.0)]),
        "late": st.sampled_from([0.0, 0.25, 0.5]),
    }


@st.composite
def compositions(draw, deepest=4):
    """Any small shape with any sharing that it can build, most degrees of most of them in use."""
    shape, sharing = draw(shapes()), draw(sharings(deepest))
    for name, values in _degrees(shape).items():
        try:
            sharing = replace(sharing, **{name: draw(values)})
        except InputError:
            continue
    return fitting(sharing, shape), sharing


def decoder(sharing, shape=None, seed=0, **options):
    """A model whose every weight is drawn, norms and deltas included, so that no test rests on a gain of one."""
    model = Decoder(fitting(sharing, shape or SHAPE), sharing, **options).initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if (
                parameter.dim() == 1
                or "diagonal" in name
                or "coefficients" in name
                or "injection" in name
                or "hyper_connections" in name
            ):
                parameter.add_(noise * 0.3)
            elif "outer" in name or "depth_embedding" in name:
                parameter.add_(noise * 0.1)
            else:
                parameter.mul_(8)  # far from the start, where logits differ visibly
    return model.eval()


def unrolled(model):
    """The independent model of the same depth that holds a copy of a stored block wherever it is read."""
    copy = Decoder(model.shape, build_sharing("independent", model.sharing.depth))
    copy.embedding.data.copy_(model.embedding.data)
    copy.final_norm.load_state_dict(model.final_norm.state_dict())
    for depth in range(model.sharing.depth):
        attention = model.attention_blocks[model.sharing.attention[depth]]
        feed_forward = model.feed_forward_blocks[model.sharing.feed_forward[depth]]
        copy.attention_blocks[depth].load_state_dict(attention.state_dict())
        copy.feed_forward_blocks[depth].load_state_dict(feed_forward.state_dict())
    return copy.eval()


def random_tokens(batch, length, shape=SHAPE, seed=1):
    """Tokens [batch, length]."""
    return torch.randint(shape.vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))
