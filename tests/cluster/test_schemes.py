"""`sharelm schemes` and `plan --draw`: every scheme, and a study's own arms."""

import json

import pytest

from sharelm.sharing import SCHEMES, build_sharing


@pytest.fixture(scope="module")
def by_name():
    from cluster.schemes import list_schemes

    return {scheme["scheme"]: scheme for scheme in list_schemes()}


def test_every_scheme_is_listed_with_its_numbers_and_source(by_name):
    assert list(by_name) == list(SCHEMES)
    for name, scheme in by_name.items():
        sharing = build_sharing(name, 8, **scheme["numbers"])
        assert scheme["attention_schedule"] == list(sharing.attention)
        assert len(scheme["about"]) > 20
    assert by_name["relaxed"]["numbers"] == {"blocks": 4, "rank": 16}


def test_the_list_is_printed_as_text_and_as_json(sharelm, by_name):
    text, data = sharelm("schemes"), sharelm("schemes", "--json")
    assert (text.returncode, data.returncode, text.stderr) == (0, 0, "")
    assert json.loads(data.stdout) == list(by_name.values())
    assert 'scheme = "relaxed", blocks = 4, rank = 16' in text.stdout
    assert "    block 3  · · · ■ · · · ■" in text.stdout


def test_a_plan_draws_the_studys_arms(sharelm, study_file):
    path = study_file(('scheme = "cycle"\nblocks = 2', 'scheme = "cycle"\nblocks = 2\nlow_rank = { attention = 4 }'))
    plain, drawn = sharelm("plan", path), sharelm("plan", path, "--draw")
    assert drawn.returncode == 0
    assert drawn.stdout.startswith(plain.stdout)
    assert "* cycle: attention: low-rank deltas of rank 4, started by zeros" in plain.stdout
    assert (
        "cycle\n\n    depth    0 1 2 3\n    block 0  ■ · ■ ·\n    block 1  · ■ · ■\n    delta    Δ Δ Δ Δ"
        in drawn.stdout
    )
