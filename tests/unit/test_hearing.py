"""When a silence is that of a gang, and when it is that of all of them."""

from datetime import datetime, timedelta

import pytest

from finetune_operator.endpoint.hearing import LONGEST_SILENCE, WITNESSES, Hearing
from finetune_operator.kinds import Key
from world import START

SECOND = timedelta(seconds=1)
LATER = START + LONGEST_SILENCE + SECOND
TEAM = [Key("team", f"{number}") for number in range(WITNESSES)]
OTHERS = [Key(f"other-{number}", "job") for number in range(WITNESSES)]


def hearing(*keys: Key, at: datetime = START) -> Hearing:
    """Of an operator that has begun long ago, and of these gangs, which begin to run."""
    made = Hearing(START - timedelta(days=1))
    for key in keys:
        made.runs(key, at)
    return made


def test_an_operator_hears_from_its_start_on() -> None:
    assert Hearing().since(TEAM[0], START) is None
    assert Hearing(START).since(TEAM[0], LATER) == START


def test_where_time_has_passed_that_nobody_could_speak_in_the_silence_begins_anew() -> None:
    ear = hearing(TEAM[0])
    ear.heard(TEAM[0], START)
    ear.begin_anew(LATER)
    assert ear.since(TEAM[0], LATER + SECOND) == LATER


def test_one_of_those_that_run_is_enough_to_know_that_the_way_is_open() -> None:
    ear = hearing(*TEAM)
    ear.heard(TEAM[0], START + SECOND)
    for key in TEAM:
        assert ear.since(key, LATER) == START - timedelta(days=1)
    assert ear.unheard(LATER) == 0


def test_while_none_is_heard_nobody_could_be() -> None:
    ear = hearing(*TEAM)
    for now in (LATER, LATER + timedelta(hours=9)):
        assert ear.since(TEAM[0], now) == now
        assert ear.since(Key("new", "job"), now) == now
        assert ear.unheard(now) == WITNESSES


def test_a_silence_no_longer_than_trainers_may_be_silent_is_none() -> None:
    ear = hearing(*TEAM)
    assert ear.since(TEAM[0], START + LONGEST_SILENCE) == START - timedelta(days=1)
    assert ear.unheard(START + LONGEST_SILENCE) == 0


def test_two_gangs_may_hang_each_by_itself() -> None:
    assert hearing(*TEAM[:2]).since(TEAM[0], LATER) == START - timedelta(days=1)


def test_what_has_just_begun_to_run_need_not_have_been_heard() -> None:
    ear = hearing(*TEAM[:2])
    ear.runs(TEAM[2], LATER)
    assert ear.since(TEAM[0], LATER + SECOND) == START - timedelta(days=1)
    assert ear.unheard(LATER + LONGEST_SILENCE) == 0
    assert ear.unheard(LATER + LONGEST_SILENCE + SECOND) == WITNESSES


def test_the_end_of_a_silence_counts_as_a_start() -> None:
    ear = hearing(*TEAM)
    ear.heard(TEAM[1], LATER)
    assert ear.since(TEAM[0], LATER + SECOND) == LATER
    # And the silence after it is another one.
    assert ear.since(TEAM[0], LATER + LONGEST_SILENCE) == LATER
    assert ear.since(TEAM[0], LATER + LONGEST_SILENCE + SECOND) == LATER + LONGEST_SILENCE + SECOND


def test_those_that_are_left_when_others_have_ended_keep_the_time_of_the_silence() -> None:
    ear = hearing(*TEAM)
    assert ear.since(TEAM[0], LATER) == LATER
    ear.rests(TEAM[1])
    assert ear.since(TEAM[0], LATER + SECOND) == LATER
    assert ear.unheard(LATER + SECOND) == 0


def test_a_namespace_may_be_cut_off_alone() -> None:
    ear = hearing(*TEAM, *OTHERS)
    for key in OTHERS:
        ear.heard(key, START + SECOND)
    assert ear.since(TEAM[0], LATER) == LATER
    assert ear.since(OTHERS[0], LATER) == START - timedelta(days=1)
    assert ear.unheard(LATER) == len(TEAM)


def test_a_single_gang_of_a_namespace_is_measured_by_the_others() -> None:
    ear = hearing(*OTHERS)
    assert ear.since(OTHERS[0], LATER) == LATER
    ear.heard(OTHERS[1], LATER + SECOND)
    assert ear.since(OTHERS[0], LATER + LONGEST_SILENCE) == LATER + SECOND


def test_a_gang_that_begins_again_is_not_reproached_with_its_silence_before() -> None:
    ear = hearing(*TEAM)
    for key in TEAM:
        ear.rests(key)
        ear.runs(key, LATER)
    assert ear.unheard(LATER + SECOND) == 0


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_set_takes_nobody_s_time(hours: int) -> None:
    ear = hearing(*TEAM)
    now = START + timedelta(hours=hours)
    since = ear.since(TEAM[0], now)
    assert since == (now if hours > 0 else START - timedelta(days=1))


def test_nothing_is_kept_of_a_namespace_in_which_nothing_runs() -> None:
    ear = hearing()
    for number in range(10):
        key = Key(f"namespace-{number}", "job")
        ear.runs(key, START)
        ear.rests(key)
        ear.heard(key, START)
    assert not vars(ear)["_namespaces"]
