"""Compositions that cannot be built, each refused with the reason and the nearest choice that can."""

from __future__ import annotations

from math import isfinite

from sharelm.errors import InputError
from sharelm.sharing.composition import Composition
from sharelm.sharing.shape import KINDS, ModelShape


def check_composition(sharing: Composition) -> None:
    """Raise `InputError` for a composition that no shape can build."""
    low_rank = sharing.low_rank
    for kind in KINDS:
        rank, scale = sharing.rank(kind), getattr(low_rank, f"{kind}_scale")
        if rank < 0:
            raise InputError(f"low_rank.{kind} = {rank}: a rank is at least 0, which is hard sharing")
        if not isfinite(scale) or scale == 0:
            raise InputError(f"low_rank.{kind}_scale = {scale} switches the delta off; use low_rank.{kind} = 0")
        given = {
            f"low_rank.{kind} = {rank}": rank > 0,
            f"diagonal names {kind!r}": kind in sharing.diagonal,
            f"atoms.{kind} = {sharing.coefficients(kind)!r}": sharing.coefficients(kind) != "none",
        }
        for what, asked in given.items():
            if asked and not sharing.looped_depths(kind):
                raise InputError(
                    f"{what}, but every {kind} block is read once and has nothing to differ from; leave it out, "
                    f"or let the {kind} schedule read a block twice"
                )
        if sharing.coefficients(kind) != "none" and kind in sharing.ties:
            raise InputError(
                f"atoms.{kind} = {sharing.coefficients(kind)!r} and ties names {kind!r}: a matrix is a sum of atoms or "
                f"a transpose, not both; keep one of them"
            )
    for name in ("diagonal", "ties"):
        kinds = getattr(sharing, name)
        if len(set(kinds)) != len(kinds):
            raise InputError(f"{name} = {list(kinds)} names a kind twice; once is enough")
    if not sharing.loop_starts:
        for name, off in (("norms", "shared"), ("injection", "none")):
            if getattr(sharing, name) != off:
                raise InputError(
                    f"{name} = {getattr(sharing, name)!r}, but no block is read twice; "
                    f"use {off!r}, or let a schedule read a block twice"
                )
    soft = sharing.soft
    for name in ("weight", "final_weight"):
        value = getattr(soft, name)
        if value is not None and not (isfinite(value) and value >= 0):
            raise InputError(f"soft.{name} = {value}: a penalty's weight is at least 0, which is no pull")
    if soft.on and all(len(set(sharing.groups(kind))) == sharing.depth for kind in KINDS):
        raise InputError(
            f"soft.weight = {soft.weight}, but the schedules put no two depths together; leave soft out, "
            "or let a schedule name a block twice"
        )
    if sharing.streams < 1:
        raise InputError(f"streams = {sharing.streams} must be at least 1, which is the plain residual stream")
    if not 0 <= sharing.late < 1:
        raise InputError(f"late = {sharing.late} must be at least 0, which loops from the start, and below 1")
    if sharing.late and not (sharing.loop_starts and sharing.attention == sharing.feed_forward):
        raise InputError(
            f"late = {sharing.late} needs one schedule for both kinds that reads a block twice, for the plain stack "
            "before it reads every block once; use late = 0"
        )
    if sharing.kv != "exact" and not sharing.looped_depths("attention"):
        raise InputError(
            f"kv = {sharing.kv!r}, but every attention block is read once, so that no two depths have keys and values "
            "of one block; use 'exact'"
        )


def check_shape(shape: ModelShape, sharing: Composition) -> None:
    """Raise `InputError` for a composition that this shape cannot build."""
    for kind in KINDS:
        most = max(min(size) for size in shape.matrices(kind).values())
        if sharing.rank(kind) > most:
            raise InputError(
                f"low_rank.{kind} = {sharing.rank(kind)} is above the width: {most} is full rank, which is no sharing"
            )
    if "attention" in sharing.ties and shape.kv_heads != shape.heads:
        raise InputError(
            f"ties names 'attention', but kv_heads = {shape.kv_heads} is not heads = {shape.heads}, so that value = "
            f"key^T does not fit; use model.kv_heads = {shape.heads}, or ties = ['feed_forward']"
        )
    width = sharing.embedding.width
    if width is not None and not 1 <= width < shape.width:
        raise InputError(
            f"embedding.width = {width} must lie between 1 and {shape.width - 1}, below the model's width; "
            "leave it out for a whole one"
        )
