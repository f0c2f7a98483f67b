"""Every scheme and some compositions at ZeRO 0 to 3 on two workers, against plain torch under SGD.

SGD, since Adam hides a wrong gradient scale.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from sharelm.closed_form.footprint import footprint
from sharelm.machine import Machine
from sharelm.model import PRECISIONS, Decoder
from sharelm.sharing import KINDS, Atoms, Embedding, LowRank, build_sharing
from sharelm.store import open_store
from sharelm.study import expand
from sharelm.study.load import study_from_tree
from sharelm.training import engine as engines
from sharelm.training.order import step_rows
from sharelm.training.rate import learning_rate
from sharelm.training.regularise import scale_gradients
from sharelm.training.trial import train_trial
from tests.sharelm.distributed import on_ranks
from tests.sharelm.models import SHAPE, SHARINGS, fitting, random_tokens
from tests.sharelm.small import TREE, RandomCorpus, RandomRows, small_study

CYCLE = build_sharing("cycle", 4, blocks=2)
LATE = build_sharing("late_loop", 5, first=1, last=2)
COMPOSED = {
    "deltas of everything": replace(
        CYCLE, low_rank=LowRank(4, 2, 2.0, start="svd"), diagonal=KINDS, norms="per_depth", depth_embedding=True
    ),
    "ties and deltas": replace(CYCLE, ties=KINDS, low_rank=LowRank(3, 3), embedding=Embedding("untied", 8)),
    "atoms and reuse": replace(CYCLE, atoms=Atoms("learned", "fixed"), kv="first", injection="additive"),
    "streams": replace(CYCLE, streams=3, injection="linear"),
    "late": replace(LATE, low_rank=LowRank(3, 3), norms="per_depth", injection="linear", kv="first"),
}
STEPS, ROWS = 4, 4


def gradient_descent(model, training, device):
    return torch.optim.SGD(model.parameters(), lr=0.5)


def plain(sharing, rule):
    """Losses of plain torch in one process."""
    shape = fitting(sharing)
    tokens, model = random_tokens(ROWS, 13, shape), Decoder(shape, sharing).initialise(0).train()
    scale_gradients(model, rule)
    optimizer, losses = gradient_descent(model, None, None), []
    for step in range(STEPS):
        model.looping = step >= sharing.late * STEPS
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def sharded(sharing, rule, stage, recompute):
    """Losses of DeepSpeed on the ranks that are there, each with its part of every batch in two passes."""
    shape, rank, world = fitting(sharing), dist.get_rank(), dist.get_world_size()
    tokens = random_tokens(ROWS, 13, shape)
    training = small_study(zero_stage=stage).training
    sizes = {"tokens_per_step": ROWS * shape.context, "sequences_per_pass": ROWS // world // 2}
    config = engines.deepspeed_config(training.model_copy(update=sizes), shape.context, world, "fp32")
    model = Decoder(shape, sharing, activation_checkpointing=recompute).initialise(0).train()
    scale_gradients(model, rule)
    engine, losses = engines.build_engine(model, training, config, torch.device("cpu")), []
    for step in range(STEPS):
        model.looping = step >= sharing.late * STEPS
        total = torch.zeros(())
        for part in tokens.chunk(world)[rank].chunk(2):
            loss = engine(part[:, :-1], targets=part[:, 1:])
            engine.backward(loss)
            if engine.is_gradient_accumulation_boundary():
                engines.take_step(engine, training)
            else:
                engine.step()
            total += loss.detach() / 2 / world
        dist.all_reduce(total)
        losses.append(total.item())
    return losses


def compare():
    engines.build_optimizer = gradient_descent
    for number, (name, sharing) in enumerate({**SHARINGS, **COMPOSED}.items()):
        rule = ("sum", "mean", "root")[number % 3]
        expected = plain(sharing, rule)
        assert expected[-1] < expected[0]
        for stage in (0, 1, 2, 3):
            found = sharded(sharing, rule, stage, recompute=(number + stage) % 2 == 0)
            np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=f"{name} at ZeRO {stage}")


def test_every_scheme_at_every_stage_equals_plain_torch():
    on_ranks(2, compare)


def late_study():
    return study_from_tree(
        {**TREE, "variant": [{"name": "late", "scheme": "late_loop", "first": 1, "last": 1}]}, "late"
    )


def train_late(folder):
    study = late_study()
    machine = Machine("cpu", "fp32", "test")
    train_trial(study, expand(study).trials[1], RandomCorpus(), "step", machine, open_store(folder), lambda *_: None)


def test_a_trial_switches_its_late_loop_on_at_its_fraction(tmp_path):
    on_ranks(1, train_late, str(tmp_path))
    study, rows = late_study(), RandomRows()
    trial, losses = expand(study).trials[1], []
    model = Decoder(trial.arm.shape, trial.arm.sharing).initialise(trial.seed).train()
    optimizer = engines.build_optimizer(model, study.training, torch.device("cpu"))
    assert study.training.steps == 6
    for step in range(6):
        model.looping = step >= 3
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(study.training, step)
        batch = torch.from_numpy(rows.batch(step_rows(len(rows), 8, trial.seed, step)))
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), study.training.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    found = open_store(str(tmp_path)).read("steps", "small")["loss_nats"].to_pylist()
    np.testing.assert_allclose(found, losses, atol=1e-5)


def weigh(folder):
    """Bytes of optimizer state in this worker, and of the whole checkpoint, against the closed forms."""
    shape, sharing, device = replace(SHAPE, vocabulary=4000), SHARINGS["relaxed"], torch.device("cpu")
    expected, rank, world = footprint(shape, sharing), dist.get_rank(), dist.get_world_size()
    for precision, stage, size in (
        ("fp32", 0, 4),
        ("fp32", 1, 4),
        ("fp32", 2, 4),
        ("bf16", 0, 2),
        ("bf16", 1, 2),
        ("bf16", 2, 2),
        ("fp32", 3, 4),
        ("bf16", 3, 2),
    ):
        training = small_study(zero_stage=stage).training.model_copy(update={"tokens_per_step": 2 * shape.context})
        config = engines.deepspeed_config(training, shape.context, world, precision)
        model = Decoder(shape, sharing, compute_dtype=PRECISIONS[precision] if stage == 0 else None).initialise(0)
        engine = engines.build_engine(model.train(), training, config, device)
        tokens = random_tokens(1, 13, shape)
        engine.backward(engine(tokens[:, :-1], targets=tokens[:, 1:]))
        engines.take_step(engine, training)
        optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
        held = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.dim())
        if stage == 3:
            held += sum(part.nbytes for part in engine.optimizer.fp32_partitioned_groups_flat)
        elif stage:
            held += sum(p.nbytes for group in optimizer.param_groups for p in group["params"])
        padding = 12 * 2 * 2 * world  # two groups, each to a multiple of twice the workers
        assert expected.optimizer_bytes(stage, world) <= held <= expected.optimizer_bytes(stage, world) + padding
        engine.save_checkpoint(f"{folder}/{precision}{stage}", tag="state", save_latest=False)
        for name, state in engine.checkpoint_engine.taken.items():
            torch.save(state, Path(folder, f"{precision}{stage}", "state", name))
        dist.barrier()
        if rank == 0:
            written = sum(path.stat().st_size for path in Path(folder, f"{precision}{stage}", "state").iterdir())
            envelopes = 50_000 * (1 + world * bool(stage))  # names and shapes, a file
            total = expected.checkpoint_bytes(stage, size)
            assert envelopes < total / 5
            assert total < written < total + envelopes, (precision, stage, written / total)


def test_optimizer_and_checkpoint_weigh_what_the_closed_forms_say(tmp_path):
    on_ranks(2, weigh, str(tmp_path))


def count_sent():
    """Bytes given to torch's collectives in a step of two passes, against the closed form; padding apart."""
    sent = Counter()

    def counted(name):
        collective = getattr(dist, name)

        def call(*arguments, **keywords):
            tensors = [value for value in (*arguments, *keywords.values()) if isinstance(value, torch.Tensor)]
            sent[name] += max((tensor.nbytes for tensor in tensors), default=0)  # the whole of a scattered tensor
            return collective(*arguments, **keywords)

        return call

    for name in ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor"):
        setattr(dist, name, counted(name))
    for precision, stage in (("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 2)):
        for sharing in (SHARINGS["independent"], SHARINGS["albert"]):
            expected, world = footprint(SHAPE, sharing), dist.get_world_size()
            training = small_study(zero_stage=stage).training
            sizes = {"tokens_per_step": 4 * world * SHAPE.context, "sequences_per_pass": 2, "workers": world}
            training = training.model_copy(update=sizes)
            config = engines.deepspeed_config(training, SHAPE.context, world, precision)
            model = Decoder(SHAPE, sharing, compute_dtype=PRECISIONS[precision] if stage == 0 else None).initialise(0)
            engine = engines.build_engine(model.train(), training, config, torch.device("cpu"))
            passes = training.passes(SHAPE.context)
            for _ in range(2):  # stage 3 knows only after a step what it need not gather again
                sent.clear()
                for number in range(passes):
                    tokens = random_tokens(2, SHAPE.context + 1)
                    engine.backward(engine(tokens[:, :-1], targets=tokens[:, 1:]))
                    if number + 1 < passes:
                        engine.step()
                engines.take_step(engine, training)
            closed = expected.sent_bytes_per_step(stage, passes, PRECISIONS[precision].itemsize)
            assert closed <= sent.total() <= closed + 4 * passes * 40 * world, (precision, stage, sent, closed)


def test_every_stored_parameter_is_sent_once():
    on_ranks(2, count_sent)
