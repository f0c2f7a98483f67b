"""Scoring a trained model: tasks become items, items become rows of the table `scores`.

`decoder`, which needs torch, is imported by itself: a driver makes items and scores none.
"""

from sharelm.evaluation.items import Item, check_room, file_items, shard, task_items
from sharelm.evaluation.questions import read_answers, read_questions
from sharelm.evaluation.scorer import Scorer, Until
from sharelm.evaluation.scoring import score

__all__ = [
    "Item",
    "Scorer",
    "Until",
    "check_room",
    "file_items",
    "read_answers",
    "read_questions",
    "score",
    "shard",
    "task_items",
]
