"""What a step's code is: checked on modules written for the purpose, on edits of the real ones, and on what runs."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import pytest
import torch.distributed as dist

from sharelm import steps
from sharelm.digest import OUTSIDE, OWN, VALUES, own_sources, package_folder, reached_digest
from sharelm.evaluation.items import Item
from sharelm.machine import Machine
from sharelm.reach import Reached, Sources, parsed
from sharelm.store import open_store
from sharelm.study import expand
from tests.sharelm.distributed import on_ranks
from tests.sharelm.small import RandomCorpus, small_study

SOURCE = '''"""A module."""
from made.other import Base, LIMIT

def area(width, height=2):
    """Its docstring."""
    # a comment
    if width > LIMIT:
        raise ValueError(f"{width} is {wide()}")
    assert height, "no height"
    return Shape(width).size() * height

def wide():
    return "too wide"

def unused():
    return 1

class Shape(Base):
    scale = 1

    def __init__(self, width):
        self.width = width

    def size(self):
        return self.width

    def drawn(self):
        return "[]"
'''
OTHER = """LIMIT = 10
class Base:
    def size(self): return 0
"""


def code(folder: Path, source: str, other: str = OTHER) -> str:
    """The digest of what `area` reaches in a package of these modules, which is never imported."""
    package = folder / "made"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "shapes.py").write_text(source)
    (package / "other.py").write_text(other)
    parsed.cache_clear()
    return reached_digest(Sources({"made": package}), ("made.shapes:area",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""Its docstring."""', '"""Another."""'),
        ('    """Its docstring."""\n', ""),
        ('"""A module."""\n', "\n\n\n"),
        ('f"{width} is {wide()}"', "'a message'"),
        (', "no height"', ""),
        ('"too wide"', '"wider"'),
        ("return 1", "return 2"),
        ('"[]"', '"()"'),
    ],
)
def test_what_is_for_readers_or_not_reached_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    assert code(tmp_path, SOURCE) == code(tmp_path, SOURCE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("() * height", "() + height"),
        ("height=2", "height=3"),
        ("height=2", "height=2.0"),
        ("width > LIMIT", "width >= LIMIT"),
        ("scale = 1", "scale = 2"),
        ("self.width = width", "self.width = 2 * width"),
        ("return self.width", "return -self.width"),
        ("ValueError", "TypeError"),
    ],
)
def test_what_the_code_does_changes_it(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    assert code(tmp_path, SOURCE) != code(tmp_path, SOURCE.replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("LIMIT = 10", "LIMIT = 11"), ("return 0", "return 1")])
def test_what_other_modules_give_changes_it(tmp_path: Path, old: str, new: str) -> None:
    assert code(tmp_path, SOURCE) != code(tmp_path, SOURCE, OTHER.replace(old, new))


def test_every_way_to_import_is_followed(tmp_path: Path) -> None:
    ways = ["from made import other", "import made.other as other", "from . import other"]
    for way in ways:
        for place in (
            f"{way}\ndef area():\n    return other.LIMIT\n",
            f"def area():\n    {way}\n    return other.LIMIT\n",
        ):
            assert code(tmp_path, place) != code(tmp_path, place, OTHER.replace("10", "11")), place


def test_empty_strings_that_some_pythons_see_in_a_formatted_one_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12's parser puts one after a part with a format; a store must serve all releases."""
    source = "def area(x):\n    return f'{x:>{5}} and {x:.2f}'\n"
    before, parse = code(tmp_path, source), ast.parse

    def parse_as_another_release(text: str) -> ast.Module:
        tree = parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values.append(ast.Constant(""))
        return tree

    monkeypatch.setattr(ast, "parse", parse_as_another_release)
    assert code(tmp_path, source) == before
    assert code(tmp_path, source.replace(" and ", " or ")) != before


ENTRIES = {"train": (steps.TRAIN,), "proxy": (steps.PROXY,), "speed": (steps.SPEED,)}
ENTRIES |= {"score": steps.SCORE, "cost": steps.COST}
LEAVES_OUT = {kind: steps._CACHES if kind in ("train", "proxy", "speed") else () for kind in ENTRIES}


def names(folder: Path, kinds: Iterable[str] = ENTRIES) -> dict[str, str]:
    """The code part of these kinds of step, from copies of the packages."""
    sources = Sources({name: folder / name for name in OWN}, VALUES)
    return {kind: reached_digest(sources, ENTRIES[kind], LEAVES_OUT[kind]) for kind in kinds}


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, str]:
    return names(copy)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("code")
    for name in OWN:
        shutil.copytree(package_folder(name), folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def changed(
    copy: Path, before: dict[str, str], file: str, old: str, new: str, kinds: Iterable[str] = ENTRIES
) -> set[str]:
    """The kinds of step that have another name after this edit."""
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{file} has no {old!r}"
    edited = copy / f"{hash((file, new))}.py"  # a file of its own: parsed sources are kept by their paths
    edited.write_text(text.replace(old, new, 1), encoding="utf-8")

    class Edited(Sources):
        def path(self, module: str) -> Path | None:
            found = super().path(module)
            return edited if found == path else found

    sources = Edited({name: copy / name for name in OWN}, VALUES)
    after = {kind: reached_digest(sources, ENTRIES[kind], LEAVES_OUT[kind]) for kind in kinds}
    return {kind for kind in kinds if before[kind] != after[kind]}


LEARNING = {"train", "proxy", "speed"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("sharelm/sharing/checks.py", "a rank is at least 0, which is hard sharing", "a rank cannot be negative"),
        ("sharelm/sharing/drawing.py", '"depth embeddings"', '"embeddings of depths"'),
        ("sharelm/closed_form/memory.py", "SHARE = 0.8", "SHARE = 0.7"),
        ("sharelm/closed_form/memory.py", "stored * 12 // workers", "stored * 13 // workers"),
        ("sharelm/closed_form/footprint.py", "score = 4 * depth", "score = 8 * depth"),
        ("sharelm/closed_form/footprint.py", "fraction * flops", "flops * fraction"),
        ("sharelm/closed_form/packing.py", "TOGETHER = 2", "TOGETHER = 3"),
        ("sharelm/store/s3.py", '"""', '""" '),
        ("sharelm/training/engine.py", "would apply an old gradient", "applies an old gradient"),
        ("sharelm/study/evaluation.py", "which takes no {name}", "which has no {name}"),
        ("sharelm/metrics.py", '"held-out loss"', '"loss"'),
        ("sharelm/tasks.py", "chance=0.0", "chance=0.1"),
    ],
)
def test_a_message_a_drawing_and_an_estimate_retrain_nothing(
    copy: Path, before: dict[str, str], file: str, old: str, new: str
) -> None:
    assert changed(copy, before, file, old, new) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "kinds"),
    [
        ("sharelm/closed_form/memory.py", "BUCKET = 1 << 24", "BUCKET = 1 << 23", LEARNING),
        ("sharelm/closed_form/memory.py", "HEAD_ROWS = 4096", "HEAD_ROWS = 2048", {*ENTRIES}),
        ("sharelm/model/blocks.py", "NORM_EPSILON = 1e-6", "NORM_EPSILON = 1e-5", {*ENTRIES}),
        ("sharelm/training/stability.py", "WINDOW = 32", "WINDOW = 64", {"train"}),
        ("sharelm/training/speed.py", "WARM_UP_STEPS, TIMED_STEPS = 5", "WARM_UP_STEPS, TIMED_STEPS = 6", {"speed"}),
        ("sharelm/sharing/composition.py", '"value": "key"', '"value": "query"', {*ENTRIES}),
        ("sharelm/evaluation/items.py", "PASSAGE_CHARACTERS = 300", "PASSAGE_CHARACTERS = 200", {"score"}),
        ("sharelm/evaluation/causal.py", "end - context - 1", "end - context", {"score"}),
        ("sharelm/evaluation/harness.py", "FEWSHOT_SEED = 1234", "FEWSHOT_SEED = 1235", {"score"}),
        ("sharelm/evaluation/harness.py", "MAX_GEN_TOKS = 256", "MAX_GEN_TOKS = 255", {"score"}),
        ("sharelm/data/tokenizer.py", "encode_special_tokens = True", "encode_special_tokens = False", {"score"}),
        ("sharelm/cost/measurement.py", '"cuda": 3.0', '"cuda": 2.0', {"cost"}),
        ("sharelm/cost/money.py", "SECONDS_PER_HOUR = 3600", "SECONDS_PER_HOUR = 60", {"cost"}),
    ],
)
def test_a_constant_that_reaches_a_result_retrains(
    copy: Path, before: dict[str, str], file: str, old: str, new: str, kinds: set[str]
) -> None:
    assert changed(copy, before, file, old, new) == kinds


def test_every_number_of_the_training_loop_and_the_model_reaches_a_trial(copy: Path, before: dict[str, str]) -> None:
    """Module constants of numbers there, but for what only a GPU's compiler, decoding or a message reads."""
    spared = {"HEADER", "PRECISIONS"}
    for folder in ("model", "training"):
        for path in sorted((copy / "sharelm" / folder).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                number = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                if not number or not isinstance(node.value.value, int | float):
                    continue
                (target,) = node.targets
                if target.id not in spared:
                    file, new = f"sharelm/{folder}/{path.name}", f"{target.id} = 7 + "
                    kinds = changed(copy, before, file, f"{target.id} = ", new, ["train"])
                    assert kinds == {"train"}, f"{path.name}: {ast.unparse(node)}"


def test_what_is_left_out_exists() -> None:
    for each in {*OUTSIDE, *VALUES, *steps._CACHES}:
        module, _, name = each.partition(":")
        whole = own_sources().path(module)
        assert whole is not None or own_sources().resolve(module, name) is not None, each
        assert not name or own_sources().resolve(module, name) is not None, each


def called(kind: str) -> tuple[set[str], object]:
    """A set that fills with the functions of these packages that run (as `module:name`), and the profiler to set."""
    found: set[str] = set()
    folders = {str(package_folder(name).parent): name for name in OWN}

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        for folder in folders:
            if event == "call" and file.startswith((f"{folder}/sharelm/", f"{folder}/jobs/")):
                module = file.removeprefix(f"{folder}/").removesuffix(".py").replace("/", ".")
                module = module.removesuffix(".__init__")
                name = frame.f_code.co_qualname.partition(".<locals>")[0]
                if not name.startswith("<"):
                    found.add(f"{module}:{name}")

    return found, note


def unnamed(found: set[str], kind: str) -> set[str]:
    """Of what ran, what the kind's code does not hold, but for what is left out on purpose."""
    reached = set(Reached(own_sources(), ENTRIES[kind], (*OUTSIDE, *LEAVES_OUT[kind])).names())
    modules = tuple(each for each in OUTSIDE if ":" not in each)
    return {
        name
        for name in found - reached
        if not name.partition(":")[0].startswith(modules)
        and name not in OUTSIDE
        and not name.startswith("sharelm.closed_form.footprint:")  # helpers of what is left out
        and not name.partition(":")[0].startswith("tests.")
    }


def _train(folder: str) -> None:
    from sharelm.training.speed import measure_speeds
    from sharelm.training.trial import train_trial

    study = small_study(dropout=0.1, stochastic_depth=0.1, gradient_scale="mean")
    store, machine = open_store(folder), Machine("cpu", "fp32", "test")
    first, second = expand(study).trials[:2]
    for kind, run in (
        ("train", lambda: train_trial(study, second, RandomCorpus(), "step", machine, store, lambda *_: None)),
        ("speed", lambda: measure_speeds(study, (first.arm, second.arm), RandomCorpus(), "step", machine, store)),
    ):
        found, note = called(kind)
        sys.setprofile(note)
        try:
            run()
        finally:
            sys.setprofile(None)
        assert len(found) > 40
        assert sorted(unnamed(found, kind)) == [], f"{kind}: {sorted(unnamed(found, kind))}"
    assert dist.get_world_size() == 1


def test_whatever_runs_in_training_is_part_of_its_name(tmp_path: Path) -> None:
    on_ranks(1, _train, str(tmp_path))


def test_whatever_runs_in_scoring_and_measuring_is_part_of_its_name(tmp_path: Path) -> None:
    from sharelm.cost.measurement import measure
    from sharelm.data.tokenizer import END_OF_TEXT, tokenizer_from, train_tokenizer
    from sharelm.evaluation import score, shard
    from sharelm.evaluation.decoder import DecoderScorer
    from sharelm.model import Decoder, load_model, save_weights

    study = small_study()
    arm = expand(study).trials[1].arm
    path = tmp_path / "weights.safetensors"
    save_weights(Decoder(arm.shape, arm.sharing).initialise(0), path)
    saved = train_tokenizer([], 257).to_str()
    items = [Item("text", str(i), 0, "ab", ("cde",), (3,)) for i in range(3)]
    items += [Item("text", "said", 0, "ab", accepted=("c",), stop=("d",), max_new_tokens=4, rule="generation")]
    items += [Item("text", "whole", 0, "", (f"abc {END_OF_TEXT}",), (3,), rule="rolling")]

    def scored() -> None:
        scorer = DecoderScorer(load_model(path, "cpu", "fp32"), tokenizer_from(saved), 64)
        score(scorer, shard(items, 0, 1))

    def measured() -> None:
        measure(path, study.cost.workload[0], Machine("cpu", "fp32", "test"), study.cost)

    for kind, run in (("score", scored), ("cost", measured)):
        found, note = called(kind)
        sys.setprofile(note)
        try:
            run()
        finally:
            sys.setprofile(None)
        assert len(found) > 10
        assert sorted(unnamed(found, kind)) == [], f"{kind}: {sorted(unnamed(found, kind))}"
