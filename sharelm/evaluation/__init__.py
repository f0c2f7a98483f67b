"""Scoring a trained model: tasks become items, items become rows of the table `scores`.

`scoring`, which needs torch, is imported by itself: a driver makes items and scores none.
"""

from sharelm.evaluation.items import Item, shard, task_items
from sharelm.evaluation.questions import read_questions

__all__ = ["Item", "read_questions", "shard", "task_items"]
