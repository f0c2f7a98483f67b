"""Scoring a trained model: tasks become items, items become rows of the table `scores`."""

from sharelm.evaluation.items import Item, shard, task_items
from sharelm.evaluation.questions import read_questions
from sharelm.evaluation.scoring import score

__all__ = ["Item", "read_questions", "score", "shard", "task_items"]
