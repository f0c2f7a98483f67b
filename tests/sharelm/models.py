"""Small shapes and sharings that several tests build models from."""

import torch
from hypothesis import strategies as st

from sharelm.model import Decoder
from sharelm.sharing import ModelShape, Sharing, build_sharing

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
}


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
    )


def decoder(sharing, shape=SHAPE, seed=0, **options):
    """A model whose every weight is drawn, norms included, so that no test rests on a gain of one."""
    model = Decoder(shape, sharing, **options).initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
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
