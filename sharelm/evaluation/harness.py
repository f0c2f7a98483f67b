"""Tasks of lm-evaluation-harness: prompts, few-shot examples and metrics are the harness's own.

A driver builds a task's requests (`harness_items`), a worker answers them and has the harness make its metrics of the
answers (`harness_rows`). In between an item carries its document and requests, since data need not lie on every node.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharelm.errors import InputError, first_line, nearest
from sharelm.evaluation.items import Item, Rule
from sharelm.evaluation.scorer import Scorer, Until
from sharelm.study.evaluation import Task
from sharelm.study.task_files import Definition, Row, check_installed, data_files, read_rows, task_files

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

FEWSHOT_SEED = 1234  # lm-eval's own default, so that prompts are those that others have
MAX_GEN_TOKS = 256  # where a task says no `max_gen_toks`: as lm-eval's Hugging Face models
LOGLIKELIHOOD, CHOICE, GENERATION = "loglikelihood", "multiple_choice", "generate_until"  # what the harness calls them


@dataclass(frozen=True, kw_only=True)
class HarnessItem(Item):
    """What the harness asks about one document: the kind of request, and the arguments of each.

    `right` is which request is that of the right answer, where exactly one is.
    """

    context: str = ""
    rule: Rule = "harness"
    definition: Definition
    metric: str
    doc: Row
    request: str
    arguments: tuple[tuple[Any, ...], ...]
    right: int | None

    @property
    def scored(self) -> tuple[str, ...]:
        """The answers whose likelihood is asked for, each at once."""
        return tuple(answer for _, answer in self.arguments) if self.request == LOGLIKELIHOOD else ()

    @property
    def new_tokens(self) -> int:
        """The most tokens that are generated; 0 where none are."""
        return _max_gen_toks(self.arguments[0][1]) if self.request == GENERATION else 0

    @property
    def bytes(self) -> int:
        """UTF-8 bytes a model reads for this item, all answers together."""
        return sum(len(context.encode()) for context, _ in self.arguments) + sum(map(len, map(str.encode, self.scored)))


def harness_items(task: Task, base: Path) -> Iterator[HarnessItem]:
    """One item a document, in the task's order; the tasks of a group follow each other.

    Raises `InputError` for what the harness or this project cannot ask.
    """
    check_installed()
    found = definitions(task, base)
    most = None if task.max_items is None else -(-task.max_items // len(found))  # a group's tasks have equal shares
    for definition in found:
        rows = {split: read_rows(path) for split, path in data_files(task, base).items()}
        built = _build(definition, rows or None)
        metric = _metric(task, built, definition)
        if built.config.num_fewshot:
            built.set_fewshot_seed(FEWSHOT_SEED)
        for number, doc in built.doc_iterator(limit=most):
            where = f"{definition.label}: document {number + 1}"
            instances = _instances(built, doc, number, where)
            yield HarnessItem(
                domain=built.task_name if len(found) > 1 else task.name,
                document=f"{built.task_name}:{number}",
                item=0,
                definition=definition,
                metric=metric,
                doc=dict(doc),
                request=instances[0].request_type,
                arguments=tuple(instance.args for instance in instances),
                right=_right(built, doc, where, own=bool(definition.files)),
            )


def harness_rows(scorer: Scorer, items: Sequence[Item]) -> list[Row]:
    """What each item scores: the task's metric as `correct`, all its metrics as JSON, and the right answer's nll."""
    own = [item for item in items if isinstance(item, HarnessItem)]
    return [
        row for _, group in groupby(own, key=lambda item: item.definition) for row in _task_rows(scorer, list(group))
    ]


def _task_rows(scorer: Scorer, items: list[HarnessItem]) -> list[Row]:
    """The rows of one task's items."""
    from lm_eval.api.instance import Instance

    task = _rebuilt(items[0].definition, [item.doc for item in items])
    answers = iter(_answers(scorer, items))
    groups = [
        [
            Instance(item.request, item.doc, arguments, at, (task.task_name, number, 1), resps=[next(answers)])
            for at, arguments in enumerate(item.arguments)
        ]
        for number, item in enumerate(items)
    ]
    task._instances = [instance for group in groups for instance in group]
    task.apply_filters()
    texts = [_text(item, group) for item, group in zip(items, groups, strict=True)]
    counts = scorer.count_tokens(texts)
    return [
        _row(task, item, group, text, tokens)
        for item, group, text, tokens in zip(items, groups, texts, counts, strict=True)
    ]


def _text(item: HarnessItem, group: list[Instance]) -> str:
    """What is counted as an item's text: the right answer, or what was generated."""
    if item.right is not None:
        return str(group[item.right].args[1])
    return str(group[0].resps[0]) if item.request == GENERATION else ""


def _row(task: ConfigurableTask, item: HarnessItem, group: list[Instance], text: str, tokens: int) -> Row:
    from lm_eval.utils import handle_non_serializable, hash_string

    metric, _, chosen = item.metric.partition(",")
    found: dict[str, Any] = {}
    for name in group[0].filtered_resps:
        metrics = task.process_results(item.doc, [instance.filtered_resps[name] for instance in group])
        found |= {f"{key},{name}": _number(value) for key, value in metrics.items()}
    value = found[f"{metric},{chosen or next(iter(group[0].filtered_resps))}"]
    if value is None:
        raise InputError(
            f"{item.definition.label}: {metric} is no number of one document, so that no mean is made of it"
        )
    doc = json.dumps(item.doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return {
        "domain": item.domain,
        "document": item.document,
        "item": item.item,
        "nll_nats": None if item.right is None else -group[item.right].resps[0][0],
        "tokens": tokens,
        "bytes": len(text.encode()),
        "correct": value,
        "document_sha256": hash_string(doc),
        "prompt_sha256": hash_string(str(item.arguments[0][0])),
        "metrics_json": json.dumps({name: number for name, number in found.items() if number is not None}),
    }


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _answers(scorer: Scorer, items: list[HarnessItem]) -> list[Any]:
    """The scorer's answer to every request, in order; all are of one kind."""
    arguments = [arguments for item in items for arguments in item.arguments]
    if items[0].request == LOGLIKELIHOOD:
        return list(scorer.loglikelihood([(context, continuation) for context, continuation in arguments]))
    return list(scorer.generate_until([(context, _until(options)) for context, options in arguments]))


def _until(options: Mapping[str, Any]) -> Until:
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    return {"until": [stop for stop in stops if stop], "max_gen_toks": _max_gen_toks(options)}


def _max_gen_toks(options: Mapping[str, Any]) -> int:
    return int(options.get("max_gen_toks") or MAX_GEN_TOKS)


def definitions(task: Task, base: Path) -> list[Definition]:
    """The tasks that `file` or `task` names: one, or each of a group."""
    settings: dict[str, Any] = {}
    if task.num_fewshot is not None:
        settings["num_fewshot"] = task.num_fewshot
    if task.unsafe_code:
        settings["unsafe_code"] = True
    if task.file is not None:
        path = Path(base, task.file)
        return [Definition(str(path), task_files(path), None, settings)]
    assert task.task is not None
    found = _brought(task.task)
    if len(found) > 1 and task.data_files is not None:
        raise InputError(f"evaluation.task {task.name!r}: task = {task.task!r} is a group, which takes no data_files")
    return [Definition(f"task {name}", (), path, settings) for name, path in found.items()]


@cache
def _brought(name: str) -> dict[str, str]:
    """The YAML's path in the harness of each task that this name of a task, group or tag stands for."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    root = _root()
    likely = [] if "/" in name else [*sorted((root / name).glob("*.yaml")), *sorted(root.rglob(f"{name}.yaml"))]
    for path in likely:  # the whole index takes seconds
        if load_yaml(path, resolve_func=False).get("task") == name:
            return {name: str(path.relative_to(root))}
    index = TaskManager().task_index
    if name not in index:
        raise InputError(f"evaluation.task: task = {name!r} is none of lm-evaluation-harness{nearest(name, index)}")
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        entry = index[waiting.pop(0)]
        below = entry.tags if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
        if entry.kind.name in ("TAG", "GROUP"):
            names = sorted(below) if isinstance(below, set) else list(below or [])
            if not all(isinstance(one, str) and one in index for one in names):
                raise InputError(
                    f"evaluation.task: task = {name!r} is a group with settings of its own; name its tasks"
                )
            waiting += names
        elif entry.kind.name == "TASK" and entry.yaml_path is not None:
            found[entry.name] = str(entry.yaml_path.relative_to(root))
        else:
            raise InputError(f"evaluation.task: task = {entry.name!r} is a Python class, which is not supported")
    return found


def _root() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def _config(definition: Definition) -> dict[str, Any]:
    """The fields of the task's YAML, its functions loaded."""
    from lm_eval.tasks._yaml_loader import load_yaml

    with tempfile.TemporaryDirectory(prefix="sharelm-task-") as folder:
        if definition.builtin is not None:
            path = _root() / definition.builtin
        else:
            for name, text in definition.files:
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_text(text, encoding="utf-8")
            path = Path(folder, definition.files[0][0])
        try:
            config = load_yaml(path)
        except (ImportError, AttributeError, SyntaxError, ValueError) as error:
            raise InputError(f"{definition.label}: {first_line(error)}".replace(f"{folder}/", "")) from None
    return {**config, **definition.settings}


def _build(definition: Definition, rows: Mapping[str, list[Row]] | None) -> ConfigurableTask:
    """The task with these rows of each split, or with the dataset that it names."""
    config = _config(definition)
    _check_config(config, definition)
    if rows is not None:
        for split in ("training_split", "validation_split", "test_split", "fewshot_split"):
            if config.get(split) is not None and config[split] not in rows:
                config[split] = None
        config["dataset_kwargs"] = None
    return _task(definition, config, rows)


def _rebuilt(definition: Definition, docs: list[Row]) -> ConfigurableTask:
    """The task over documents that are processed already and whose prompts are made: what judges answers."""
    config = _config(definition)
    config |= dict.fromkeys(
        ("process_docs", "training_split", "validation_split", "fewshot_split", "fewshot_config", "dataset_kwargs")
    )
    return _task(definition, {**config, "test_split": "test", "num_fewshot": 0}, {"test": docs})


def _task(definition: Definition, config: dict[str, Any], rows: Mapping[str, list[Row]] | None) -> ConfigurableTask:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every default that a task leaves out
    import datasets
    from lm_eval.api.task import ConfigurableTask

    datasets.disable_progress_bars()
    if rows is not None:
        config["custom_dataset"] = lambda **_: {
            split: datasets.Dataset.from_list(found) for split, found in rows.items()
        }
    try:
        return ConfigurableTask(config=config)
    except (ConnectionError, FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise InputError(
            f"{definition.label}: the dataset {config.get('dataset_path')!r} is not to be had: {first_line(error)}; "
            "data_files names local files in its place"
        ) from None
    except Exception as error:  # whatever templates, functions and Arrow make of a task
        raise InputError(
            f"{definition.label} is no task that lm-evaluation-harness can ask, tried on its first document: "
            f"{first_line(error)}"
        ) from None


def _check_config(config: dict[str, Any], definition: Definition) -> None:
    from lm_eval.api.registry import metric_registry
    from lm_eval.config.task import TaskConfig

    import_module("lm_eval.api.metrics")  # it fills the registry
    label = definition.label
    known = {one.name for one in fields(TaskConfig)}
    if "class" in config or "group" in config:
        what = "a Python class" if "class" in config else "a group"
        raise InputError(f"{label} is {what}, which is not supported; name tasks")
    for name in config:
        if name not in known:
            raise InputError(f"{label}: {name} is no field of a task{nearest(name, known)}")
    if config.get("unsafe_code") and "unsafe_code" not in definition.settings:
        raise InputError(
            f"{label}: its metric runs code that the model wrote; evaluation.task.unsafe_code = true allows that"
        )
    if config.get("output_type", GENERATION) == "loglikelihood_rolling":
        raise InputError(f"{label}: output_type = loglikelihood_rolling is not supported; use kind = bits_per_byte")
    if config.get("process_results") is None:
        for one in config.get("metric_list") or []:
            name = one.get("metric")
            if isinstance(name, str) and not one.get("hf_evaluate") and name not in metric_registry:
                raise InputError(
                    f"{label}: metric {name!r} is none that the harness knows{nearest(name, metric_registry)}"
                )
    options = config.get("generation_kwargs") or {}
    if options.get("do_sample") or float(options.get("temperature") or 0):
        raise InputError(f"{label}: generation_kwargs samples; answers here are greedy, so that they repeat")


def _metric(task: Task, built: ConfigurableTask, definition: Definition) -> str:
    """The metric that is compared: the one asked for, else the first that is a mean over items."""
    from lm_eval.api.metrics import mean

    means: list[str] = [name for name, how in built.aggregation().items() if how is mean]
    if task.metric is None:
        if not means:
            given = ", ".join(built.aggregation())
            raise InputError(f"{definition.label}: none of its metrics is a mean over items: {given}")
        return means[0]
    name = task.metric.partition(",")[0]
    if name not in means:
        raise InputError(
            f"evaluation.task {task.name!r}: metric = {task.metric!r} is no mean over items of {definition.label}"
            f"{nearest(name, means)}"
        )
    return task.metric


def _instances(built: ConfigurableTask, doc: Row, number: int, where: str) -> list[Instance]:
    """The harness's requests about this document."""
    try:
        context = built.fewshot_context(
            doc, num_fewshot=built.config.num_fewshot or 0, gen_prefix=built.doc_to_prefix(doc)
        )
        found = built.construct_requests(doc=doc, ctx=context, metadata=(built.task_name, number, 1))
    except Exception as error:  # whatever a template or a function makes of a document
        raise InputError(f"{where}: {first_line(error)}") from None
    instances: list[Instance] = found if isinstance(found, list) else [found]
    for instance in instances:
        if instance.request_type == LOGLIKELIHOOD and not instance.args[1].strip():
            raise InputError(f"{where}: an answer is empty")
        if len(instance.args) != 2:
            raise InputError(f"{where}: asks about more than text, which is not supported")
    return instances


def _right(built: ConfigurableTask, doc: Row, where: str, own: bool) -> int | None:
    """Which request is that of the right answer; None where answers are generated or several are right."""
    if built.OUTPUT_TYPE == LOGLIKELIHOOD:
        return 0
    if built.OUTPUT_TYPE != CHOICE:
        return None
    choices = built.doc_to_choice(doc)
    if own and len(set(choices)) < len(choices):
        raise InputError(f"{where}: choices = {choices!r} has the same choice twice")
    gold: Any = built.doc_to_text(doc) if built.multiple_input else built.doc_to_target(doc)
    if isinstance(gold, str):
        if gold not in choices:
            raise InputError(f"{where}: the answer {gold!r} is none of the choices {choices!r}")
        gold = choices.index(gold)
    for index in gold if isinstance(gold, list) else [gold]:
        if not isinstance(index, int) or not 0 <= index < len(choices):
            raise InputError(f"{where}: the answer {index!r} is no index of its {len(choices)} choices")
    return None if isinstance(gold, list) else gold
