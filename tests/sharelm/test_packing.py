"""How many trials share a GPU, and what that changes."""

import pytest

from sharelm.closed_form.packing import SMALL_STEP
from sharelm.errors import InputError
from sharelm.machine import Machine
from sharelm.steps import trial_step
from sharelm.study import expand
from sharelm.study.memory import parts
from sharelm.study.packing import check_room, trials_per_gpu
from tests.sharelm.small import small_study


def step_flops(study):
    return max(arm.footprint.training_flops_per_token for arm in expand(study).models) * study.training.tokens_per_step


def test_two_tiny_trials_share_a_gpu_and_larger_ones_do_not():
    tiny = small_study()
    assert step_flops(tiny) < SMALL_STEP
    number, why = trials_per_gpu(expand(tiny).models, tiny.training)
    assert number == 2
    assert f"{step_flops(tiny) / 1e9:.3g} GFLOP" in why
    times = int(SMALL_STEP / step_flops(tiny)) + 1
    large = small_study(tokens_per_step=16 * 8 * times, tokens=16 * 8 * times * 6)
    assert trials_per_gpu(expand(large).models, large.training)[0] == 1
    several = small_study(workers=2)
    assert trials_per_gpu(expand(several).models, several.training)[0] == 1
    asked = small_study(trials_per_gpu=3)
    number, why = trials_per_gpu(expand(asked).models, asked.training)
    assert (number, "as asked for" in why) == (3, True)


def test_how_many_share_a_gpu_is_no_part_of_a_trials_name():
    def names(study):
        return [trial_step(study, trial, "data", Machine("cuda", "bf16", "x")) for trial in expand(study).trials]

    assert (
        names(small_study()) == names(small_study(trials_per_gpu=2)) == names(small_study().decided(trials_per_gpu=4))
    )


def test_trials_that_do_not_fit_a_gpu_together_are_refused():
    study = small_study(trials_per_gpu=3)
    need = max(parts(arm, study.training, "bf16", 0).total for arm in expand(study).models)
    check_room(expand(study).models, study.training, "bf16", round(3 * need / 0.8) + 1)
    with pytest.raises(InputError, match=r"training.trials_per_gpu = 3: so many trials of arm \w+ need .* use fewer"):
        check_room(expand(study).models, study.training, "bf16", round(3 * need / 0.8) - 3)
    alone = small_study(trials_per_gpu=1)
    check_room(expand(alone).models, alone.training, "bf16", 1)  # by itself it is least_stage that refuses


@pytest.mark.parametrize(("asked", "together"), [("auto", 1), (1, 1), (3, 3)])
def test_what_trials_count_on(asked, together):
    assert small_study(trials_per_gpu=asked).training.together == together
