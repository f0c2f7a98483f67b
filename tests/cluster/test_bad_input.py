"""Bad input through the command line: exit 2, one sentence on stderr, no traceback, nothing spent."""

import pytest

BAD = [
    (('scheme = "albert"', 'scheme = "albrt"'), ["variant", "albrt", "albert"]),
    (("tokens_per_step = 2048", "token_per_step = 2048"), ["training.token_per_step", "'tokens_per_step'"]),
    (("heads = 4\nkv_heads = 2", "heads = 256\nkv_heads = 2"), ["heads = 256", "width = 128"]),
    (("loss_margin_nats = 0.05", "loss_margin_nats = -0.05"), ["kpi.accuracy.loss_margin_nats", "-0.05"]),
    (("price_per_hour = 0.10", "price_per_hour = -0.10"), ["cost.price_per_hour", "-0.1"]),
    (('name = "cycle"', 'name = "albert"'), ["'albert'", "2 times"]),
    (("tokens = 204_800", "tokens = 204_801"), ["tokens = 204801", "tokens_per_step = 2048"]),
    (("warmup_steps = 10", "warmup_steps = 10\nzero_stage = 4"), ["zero_stage = 4"]),
    (("warmup_steps = 10", 'activation_checkpointing = "reentrant"'), ["activation_checkpointing", "reentrant"]),
    (
        ('scheme = "albert"', "blocks = 2\nattention = [0, 1, 2, 0]\nfeed_forward = [0, 1, 0, 1]"),
        ["attention[2] = 2", "not stored"],
    ),
    (("[study]", "[study"), ["not TOML"]),
]


def one_sentence(done):
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("sharelm: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(("replacement", "words"), BAD, ids=[replacement[1][:30] for replacement, _ in BAD])
def test_a_bad_study_is_one_sentence(sharelm, study_file, replacement, words):
    said = one_sentence(sharelm("plan", study_file(replacement)))
    for word in ("study.toml", *words):
        assert word in said


@pytest.mark.parametrize("command", ["run", "prepare", "submit"])
def test_no_ray_is_started_for_a_bad_study(sharelm, study_file, tmp_path, command):
    path = study_file(("price_per_hour = 0.10", "price_per_hour = -1"))
    one_sentence(sharelm(command, path, "--store", tmp_path / "store"))
    assert list(tmp_path.iterdir()) == [path]


def test_an_unreadable_study_is_one_sentence(sharelm, tmp_path):
    (tmp_path / "latin.toml").write_bytes("name = 'Größe'".encode("latin-1"))
    assert "not UTF-8" in one_sentence(sharelm("plan", "latin.toml"))
    assert "no.toml cannot be read" in one_sentence(sharelm("plan", "no.toml"))


def test_stores_that_cannot_be(sharelm, study_file):
    assert "gs://" in one_sentence(sharelm("plan", study_file(), "--store", "gs://bucket/x"))
    assert "names no bucket" in one_sentence(sharelm("tables", "--store", "s3://"))


def test_no_cluster_is_one_sentence(sharelm, study_file):
    nobody = "http://127.0.0.1:9"
    for arguments in (["status"], ["logs", "quickstart"], ["stop", "quickstart"], ["submit", study_file()]):
        assert nobody in one_sentence(sharelm(*arguments, "--address", nobody))


def test_what_a_store_lacks(sharelm, tmp_path):
    store = ("--store", tmp_path / "store")
    assert "'quickstart' is not in" in one_sentence(sharelm("verdict", "quickstart", *store))
    assert "'quickstart' is not in" in one_sentence(sharelm("report", "quickstart", "--out", "here", *store))
    assert "did you mean 'trials'" in one_sentence(sharelm("tables", "trial", *store))
    assert "exclude each other" in one_sentence(sharelm("tables", "trials", "--csv", "--json", *store))
    assert "need a TABLE" in one_sentence(sharelm("tables", "--csv", *store))


def test_unknown_commands_and_options_are_usage_errors(sharelm):
    for arguments in (["trian"], ["plan", "--stor", "x"], ["plan"]):
        done = sharelm(*arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr
        assert "Traceback" not in done.stderr
