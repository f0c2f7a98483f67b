"""What a task asks of a model: items, each a context and one or more answers, all of them texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from sharelm.data import Corpus
from sharelm.errors import InputError
from sharelm.evaluation.questions import read_answers, read_questions
from sharelm.study.evaluation import Task

PASSAGE_CHARACTERS = 300  # a passage is at least this long before its last word; LAMBADA's are 75 words on average

# a word after one blank that ends a sentence (no digit follows, as in "No. 5"; WikiText has a blank before the
# stop) or a line
LAST_WORD = re.compile(r"(?<=\S) (\w{2,})(?= ?[.!?][\"'”’)\]]*\s(?!\s*\d)|[^\w\s]{0,3}(?:\n|\Z))")


# how an item becomes a row: `sharelm.evaluation.scoring.RULES`
Rule = Literal["rolling", "likelihood", "generation", "harness"]


@dataclass(frozen=True)
class Item:
    """One row to score. With several answers the row is the gold one's, and `correct` says whether it won.

    An item whose answer is generated has none to read: `accepted` holds those that are right.
    """

    domain: str
    document: str
    item: int
    context: str
    answers: tuple[str, ...] = ()  # what follows the context, with the blank before it
    answer_bytes: tuple[int, ...] = ()  # of what a reader would call the answer
    gold: int = 0
    accepted: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 0
    rule: Rule = "likelihood"

    @property
    def scored(self) -> tuple[str, ...]:
        """The answers whose likelihood is asked for, each at once."""
        return () if self.rule == "rolling" else self.answers

    @property
    def new_tokens(self) -> int:
        """The most tokens that are generated; 0 where none are."""
        return self.max_new_tokens

    @property
    def bytes(self) -> int:
        """UTF-8 bytes a model reads for this item, all answers together."""
        times = max(1, len(self.answers))
        return times * len(self.context.encode()) + sum(len(answer.encode()) for answer in self.answers)


def task_items(task: Task, corpus: Corpus, base: Path) -> list[Item]:
    """The items of a task in a fixed order, at most `task.max_items`; a relative file is looked for in `base`.

    Raises `InputError` for a bad file, and when the held-out documents hold nothing to score.
    """
    if task.traits.reads != "documents":
        return file_items(task, base)
    items = list(islice(DOCUMENTS[task.kind](corpus), task.max_items))
    if not items:
        raise InputError(f"task {task.name!r} ({task.kind}) finds nothing to score in the held-out documents")
    return items


def file_items(task: Task, base: Path) -> list[Item]:
    """The items of a task that reads files, without the study's data; raises `InputError` for a bad file."""
    return list(islice(FILES[task.kind](task, base), task.max_items))


def check_room(task: Task, items: list[Item], tokenizer: Tokenizer, context: int) -> None:
    """Raise `InputError` where an answer is longer than the model's context, or leaves no room in it for a prompt."""
    for item in items:
        if item.new_tokens >= context:
            raise InputError(
                f"evaluation.task {task.name!r}: {item.new_tokens} new tokens leave no room for a prompt in "
                f"model.context = {context}"
            )
    answers = [(item, answer) for item in items for answer in item.scored]
    encoded = tokenizer.encode_batch_fast([answer for _, answer in answers], add_special_tokens=False)
    for (item, answer), tokens in zip(answers, encoded, strict=True):
        if len(tokens.ids) > context:
            raise InputError(
                f"evaluation.task {task.name!r}: {item.document} has an answer of {len(tokens.ids)} tokens, which is "
                f"more than model.context = {context}: {answer[:40]!r}"
            )


def shard(items: list[Item], index: int, count: int) -> list[Item]:
    """The items of shard `index` of `count`; every item is in one shard, and shards are of about the same bytes."""
    loads = [0] * count
    chosen, sizes = [], [item.bytes for item in items]
    for number in sorted(range(len(items)), key=lambda n: (-sizes[n], n)):
        lightest = loads.index(min(loads))
        loads[lightest] += sizes[number]
        if lightest == index:
            chosen.append(number)
    return [items[number] for number in sorted(chosen)]


def _in_turn(groups: Iterable[Iterable[Any]]) -> Iterator[Any]:
    """One of each group, then the next of each, until all are empty."""
    return (value for value in chain.from_iterable(zip_longest(*groups)) if value is not None)


def _by_domain(corpus: Corpus, *columns: str) -> list[list[dict[str, Any]]]:
    """Held-out documents of each domain, in the order of their digests, with these columns too."""
    domains: dict[str, list[dict[str, Any]]] = {}
    table = corpus.validation().select(["domain", "digest", *columns])
    for document in table.sort_by([("domain", "ascending"), ("digest", "ascending")]).to_pylist():
        domains.setdefault(document["domain"], []).append(document)
    return list(domains.values())


def _documents(corpus: Corpus) -> Iterator[Item]:
    """Every held-out document that has a token, the whole of it."""
    for row in _in_turn(_by_domain(corpus, "text", "bytes", "tokens")):
        if row["tokens"]:
            yield Item(
                domain=row["domain"],
                document=row["digest"],
                item=0,
                context="",
                answers=(row["text"],),
                answer_bytes=(row["bytes"],),
                rule="rolling",
            )


def passages(text: str) -> Iterator[tuple[str, str]]:
    """Consecutive passages of a text, each as what precedes its last word and that word with its blank."""
    start = 0
    for match in LAST_WORD.finditer(text):
        if match.start() - start >= PASSAGE_CHARACTERS:
            yield text[start : match.start()], match.group()
            start = match.end()


def _last_words(corpus: Corpus) -> Iterator[Item]:
    """LAMBADA's question (arXiv 1606.06031) on the held-out documents: a passage's last word, given the passage."""

    def of(row: dict[str, Any]) -> Iterator[Item]:
        for number, (passage, word) in enumerate(passages(row["text"])):
            yield Item(
                domain=row["domain"],
                document=row["digest"],
                item=number,
                context=passage,
                answers=(word,),
                answer_bytes=(len(word.encode()),),
            )

    return _in_turn(_in_turn(of(row) for row in rows) for rows in _by_domain(corpus, "text"))


def _choices(task: Task, base: Path) -> Iterator[Item]:
    """One item a question; each choice is scored after the query and a blank."""
    assert task.file is not None
    for question in read_questions(Path(base, task.file)):
        texts = [choice if choice[0].isspace() or not question.query else f" {choice}" for choice in question.choices]
        yield Item(
            domain=task.name,
            document=f"{task.name}:{question.line}",
            item=0,
            context=question.query.rstrip(),
            answers=tuple(texts),
            answer_bytes=tuple(len(choice.encode()) for choice in question.choices),
            gold=question.gold,
        )


def _answers(task: Task, base: Path) -> Iterator[Item]:
    """One item a question; a blank that ends the query is left to the answer, as training text has it."""
    assert task.file is not None
    assert task.max_new_tokens is not None
    for question in read_answers(Path(base, task.file)):
        yield Item(
            domain=task.name,
            document=f"{task.name}:{question.line}",
            item=0,
            context=question.query.rstrip(" "),
            accepted=question.accepted,
            stop=tuple(task.stop or ()),
            max_new_tokens=task.max_new_tokens,
            rule="generation",
        )


def _harness(task: Task, base: Path) -> Iterator[Item]:
    """One item a document of a task of lm-evaluation-harness."""
    from sharelm.evaluation.harness import harness_items  # which is built on this module

    return harness_items(task, base)


DOCUMENTS: dict[str, Callable[[Corpus], Iterator[Item]]] = {  # kinds of task that read held-out documents
    "bits_per_byte": _documents,
    "cloze": _last_words,
}
FILES: dict[str, Callable[[Task, Path], Iterator[Item]]] = {  # kinds that read files
    "multiple_choice": _choices,
    "generation": _answers,
    "harness": _harness,
}
