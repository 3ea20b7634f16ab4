from compress.sampler import Sampler
from compress.space import Space

SPACE = Space({"a": 0, "b": 0, "kind": "x"}, {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3), "kind": ("x", "y")})
HAND = {"a": 1, "b": 2, "kind": "y"}


def asked(count: int, seed: int) -> list[dict[str, object]]:
    sampler = Sampler(SPACE, "nsga2", population=6, seed=seed, hand_made=[HAND])
    picks = []
    for _ in range(count):
        trial, pick = sampler.ask()
        picks.append(dict(pick))
        sampler.tell(trial, float(pick["a"] + pick["b"] + 1), float(pick["a"]))
    return picks


def test_hand_made_smallest_and_largest_come_first() -> None:
    assert asked(3, 0) == [HAND, SPACE.smallest, SPACE.largest]


def test_then_hand_made_with_a_field_changed_as_a_whole() -> None:
    a_changed = [{**HAND, "a": value} for value in (0, 2, 3)]
    b_changed = [{**HAND, "b": value} for value in (0, 1, 3)]
    assert asked(10, 0)[3:] == [*a_changed, *b_changed, {**HAND, "kind": "x"}]


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    assert asked(30, 1) == asked(30, 1) != asked(30, 2)


def test_nsga2_finds_the_front_of_a_plain_problem() -> None:
    # Cost a + b + 1, score a: on the front b is 0.
    picks = asked(150, 3)
    assert {pick["a"] for pick in picks if pick["b"] == 0} == {0, 1, 2, 3}


def test_refused_picks_do_not_stop_the_search() -> None:
    sampler = Sampler(SPACE, "nsga2", population=4, seed=0, hand_made=[])
    for _ in range(20):
        trial, pick = sampler.ask()
        if pick["a"] > 1:
            sampler.refuse(trial)
        else:
            sampler.tell(trial, 1.0 + pick["b"], float(pick["a"]))
