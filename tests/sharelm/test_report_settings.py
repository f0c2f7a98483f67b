"""The study as the report prints it reads back as the same study."""

import copy

import pytest

from sharelm.report.settings import to_toml
from sharelm.study import load_study
from sharelm.study.load import parse_study, study_from_tree
from tests.sharelm.report_helpers import QUICKSTART

ODD = "quote \" ' backslash \\ tab \t delete \x7f umlaut ü $"


@pytest.mark.parametrize(
    "degrees",
    [
        {"scheme": "cycle", "blocks": 2, "low_rank": {"attention": 2, "start": "svd"}, "diagonal": ["attention"]},
        {"attention": [0, 1, 0, 1], "feed_forward": [0, 0, 1, 1], "kv": "last"},
        {"scheme": "albert", "soft": {"weight": 1e-12}, "norms": "shared"},
    ],
)
def test_the_printed_study_reads_back(degrees):
    tree = copy.deepcopy(load_study(QUICKSTART).tree())
    tree["variant"][0] = {"name": "asked", **degrees}
    tree["data"]["source"] = [{"uri": ODD, "domain": "odd", "document_start": ODD}]
    tree["training"]["tune"] = {"learning_rates": [1e-7, tree["training"]["learning_rate"], 1e9], "tokens": 40_960}
    study = study_from_tree(tree, "asked")
    assert parse_study(to_toml(study.tree()), "printed") == study
