from __future__ import annotations

from collections import Counter

import pytest

from dujiang.engines.contract import EngineRefused
from dujiang.engines.simulated.program import FOREVER, Program, script_of
from tests.engines.simulated.builders import SAVES, a_launch


def told(text: str, **fields: object) -> Program:
    return script_of(a_launch(text, **fields), seed=7).ranks[0]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("#sim", Program(printed="")),
        ("#sim duration=90 exit=3", Program(duration_s=90, exit_code=3, printed="")),
        ("#sim duration=1h30m", Program(duration_s=5400, printed="")),
        ("#sim duration=forever", Program(duration_s=FOREVER, printed="")),
        ("#sim duration=released", Program(duration_s=FOREVER, until_released=True, printed="")),
        ("#sim signal=11", Program(signal=11, printed="")),
        ("#sim memory=2GiB", Program(out_of_memory=True, printed="")),
        ("#sim memory=512MiB", Program(printed="")),
        ("#sim print=epoch_1", Program(printed="epoch 1\n")),
        ("#sim print='two words'", Program(printed="two words\n")),
        ("#sim saves=10 saved-exit=4", Program(saves_on=10, saved_exit=4, printed="")),
        ("#sim stubborn", Program(stubborn=True, printed="")),
        ("python train.py\n#sim duration=5\n#sim exit=2", Program(duration_s=5, exit_code=2, printed="")),
    ],
)
def test_a_comment_tells_everything(text: str, program: Program) -> None:
    assert told(text) == program


def test_a_word_for_one_rank_comes_before_one_for_all() -> None:
    launch = a_launch("#sim duration=9 exit=1\n#sim rank=1 exit=5", nodes=(1, 2, 3))
    assert [program.exit_code for program in script_of(launch, seed=7).ranks] == [1, 5, 1]
    assert [program.duration_s for program in script_of(launch, seed=7).ranks] == [9, 9, 9]


def test_the_environment_tells_some_and_the_rest_is_drawn() -> None:
    program = told("python train.py", env={"DUJIANG_SIM_DURATION": "90", "DUJIANG_SIM_EXIT": "4", "OTHER": "x"})
    assert (program.duration_s, program.exit_code, program.printed) == (90, 4, None)
    assert told("#sim duration=5", env={"DUJIANG_SIM_DURATION": "90"}).duration_s == 5


def test_setup_and_start_are_told() -> None:
    script = script_of(a_launch("#sim start=3", setup="#sim exit=9"), seed=7)
    assert (script.start_s, script.setup_exit) == (3, 9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#sim durration=9", 'Did you mean "duration"'),
        ("#sim duration=soon", "not a duration"),
        ("#sim exit=300", "whole number from 0 to 255"),
        ("#sim exit=-1", "whole number from 0 to 255"),
        ("#sim signal=99", "from 0 to 64"),
        ("#sim memory=much", "not a size"),
        ("#sim rank=first exit=1", "whole number"),
        ("#sim print='open", "quotation mark"),
    ],
)
def test_words_that_cannot_be_read_are_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(EngineRefused, match=says):
        told(text)


def test_a_wrong_word_in_the_environment_is_refused_too() -> None:
    with pytest.raises(EngineRefused, match='"lenght" is no word'):
        told("python train.py", env={"DUJIANG_SIM_LENGHT": "9"})


def test_what_is_drawn_depends_on_seed_and_name_alone() -> None:
    launches = [a_launch("python train.py", job=f"job_{nth}", checkpoint=SAVES) for nth in range(50)]
    forwards = {launch.key: script_of(launch, seed=1) for launch in launches}
    backwards = {launch.key: script_of(launch, seed=1) for launch in reversed(launches)}
    assert forwards == backwards
    assert forwards != {launch.key: script_of(launch, seed=2) for launch in launches}


def test_the_work_is_the_jobs_and_its_luck_the_attempts() -> None:
    attempts = [told("python train.py", job="job_b", number=number) for number in range(1, 60)]
    lengths = Counter(program.duration_s for program in attempts)
    assert lengths.most_common(1)[0][1] >= 40
    assert any(program.exit_code or program.signal or program.out_of_memory for program in attempts)


def test_most_end_well_and_some_of_each_kind_do_not() -> None:
    drawn = [told("python train.py", job=f"job_{nth}") for nth in range(600)]
    kinds = Counter(
        "exit" if one.exit_code else "signal" if one.signal else "memory" if one.out_of_memory else "well"
        for one in drawn
    )
    assert 480 <= kinds["well"] <= 570
    assert min(kinds["exit"], kinds["signal"], kinds["memory"]) >= 5


def test_a_service_is_drawn_to_run_for_ever() -> None:
    assert told("python serve.py", ports=1).duration_s == FOREVER


def test_speed_divides_durations_told_and_drawn() -> None:
    for text in ("#sim duration=100 start=4", "python train.py"):
        plain, fast = (script_of(a_launch(text), seed=7, speed=speed) for speed in (1.0, 4.0))
        assert fast.ranks[0].duration_s == pytest.approx(plain.ranks[0].duration_s / 4)
        assert fast.start_s == pytest.approx(plain.start_s / 4)


def test_with_a_checkpoint_only_what_is_left_is_done() -> None:
    text = "#sim duration=100"
    assert script_of(a_launch(text, checkpoint=SAVES), seed=7, done_before=30).ranks[0].duration_s == 25
    assert script_of(a_launch(text), seed=7, done_before=30).ranks[0].duration_s == 100
