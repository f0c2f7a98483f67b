"""`docs/study.md` is what the study's fields say today, and every field says something."""

import json
import tomllib
from pathlib import Path

import pytest

from sharelm.errors import InputError
from sharelm.study.describe import page, sections
from sharelm.study.load import parse_study, study_from_tree
from sharelm.study.training import Training
from sharelm.study.tree import EXECUTION_SETTINGS

ROOT = Path(__file__).parents[2]


def leaves(tree, path=""):
    """Paths of all values of plain study settings; lists of tables are walked, other lists are values."""
    for key, value in tree.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from leaves(value, below)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                yield from leaves(entry, below)
        else:
            yield below


def described():
    return {
        f"{title.strip('[]')}.{setting.name.strip('`*')}": setting
        for section in sections()
        for title in section.titles
        for setting in section.settings
    }


def test_page_is_up_to_date():
    written = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m sharelm.study.describe > docs/study.md"


def test_every_setting_has_a_description():
    assert [name for name, setting in described().items() if len(setting.meaning) < 10] == []
    assert [section.titles for section in sections() if not section.about] == []


def test_every_setting_of_a_whole_study_is_there():
    text = (ROOT / "examples/quickstart.toml").read_text(encoding="utf-8")
    tree = parse_study(text, "quickstart").tree()
    tree["training"]["tune"] = {"learning_rates": [1e-3, 3e-3, 1e-2], "tokens": 1, "choose": "grid"}
    degrees = {
        "low_rank": {"attention", "feed_forward", "attention_scale", "feed_forward_scale", "start"},
        "atoms": {"attention", "feed_forward"},
        "embedding": {"head", "width"},
        "soft": {"weight", "final_weight"},
    }
    for variant in tree["variant"]:
        variant |= {name: dict.fromkeys(keys) for name, keys in degrees.items()}
    assert set(leaves(tree)) == set(described())


def test_the_defaults_are_those_that_hold():
    required = {"tokens": 2048 * 100, "tokens_per_step": 2048, "learning_rate": 1e-3}
    for name, value in Training(**required).model_dump().items():
        if name not in {*required, "tune"}:
            default = described()[f"training.{name}"].default
            assert default == ("not set" if value is None else f"`{json.dumps(value)}`")


def test_execution_settings_are_marked():
    marked = {name for name, setting in described().items() if setting.name.endswith("*")}
    assert marked == EXECUTION_SETTINGS | {"evaluation.task.shards"}


def test_the_old_name_of_the_learning_rate_schedule_is_refused_with_the_new():
    text = (ROOT / "examples/quickstart.toml").read_text(encoding="utf-8")
    tree = tomllib.loads(text)
    tree["training"]["schedule"] = "cosine"
    with pytest.raises(InputError, match=r"training\.schedule is not a known key; did you mean 'learning_rate_sch"):
        study_from_tree(tree, "old.toml")
