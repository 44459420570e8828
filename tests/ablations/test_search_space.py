"""Hydra's sweep syntax as a search space: what may be chosen, when, and what is refused."""

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from ablations.sweep.search_space import ABSENT, SearchError, search_space

C6, C7 = "backbone.stages.c6", "backbone.stages.c7"


def space_of(*words: str, only_if=None):
    return search_space(OverridesParser.create().parse_overrides(list(words)), only_if or {})


def only(word: str):
    (parameter,) = space_of(word).parameters
    return parameter


@pytest.mark.parametrize(
    ("word", "distribution"),
    [
        ("a.b=1,2", CategoricalDistribution((1, 2))),
        ("a.b=choice(relu,silu)", CategoricalDistribution(("relu", "silu"))),
        ("a.b=true,null", CategoricalDistribution((True, None))),
        ("a.b=[64],[64,96]", CategoricalDistribution(("[64]", "[64,96]"))),
        ("a.b=interval(0.1,0.5)", FloatDistribution(0.1, 0.5)),
        ("a.b=tag(log,interval(0.1,0.5))", FloatDistribution(0.1, 0.5, log=True)),
        ("a.b=int(interval(1,5))", IntDistribution(1, 5)),
        ("a.b=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a.b=tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
    ],
)
def test_each_sweep_of_hydra_is_a_distribution(word, distribution):
    assert only(word).distribution == distribution


@pytest.mark.parametrize(
    "word", ["a=range(1,4)", "a=range(0,9,2)", "a=range(9,0,-3)", "a=range(0.1,0.5,0.1)"]
)
def test_a_range_holds_what_hydra_lists(word):
    (override,) = OverridesParser.create().parse_overrides([word])
    sweep = override.value()
    assert isinstance(sweep, RangeSweep)
    assert sorted(only(word).choices) == pytest.approx(sorted(sweep.range()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=1"], "nothing to search"),
        (["job.num_threads=1,2"], "job.num_threads: decides no result"),
        (["seed=0,1"], "would pick the luckiest"),
        (["variant=x,y"], "names one variant"),
        (["+table=small", "a=1,2"], "hydra.sweeper.known=NAME"),
        (["a=tag(ordered,choice(1,2))"], "tag ordered is not known"),
        (["a=tag(log,choice(1,2))"], "not choices"),
        (["a=tag(log,interval(0,1))"], "a=tag(log,interval(0,1)): "),
        (["a=interval(2,1)"], "a=interval(2,1): "),
        (["a=tag(log,range(1,9,2))"], "in steps of 1"),
        (["a=range(4,4)"], "the range is empty"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_field_and_remedy(words, message):
    with pytest.raises(SearchError) as refusal:
        space_of(*words)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("only_if", "message"),
    [
        ({C7: "backbone.width"}, "backbone.width is not searched"),
        ({"x": C6}, "x is not searched"),
        ({C7: C6, C6: C7}, "wait for each other"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(only_if, message):
    with pytest.raises(SearchError, match=message):
        space_of(f"+{C7}=absent,{{depth:1}}", f"{C6}=absent,{{depth:1}}", only_if=only_if)


def points_of(space) -> set[tuple[str, ...]]:
    """The overrides of every point, found by trying all combinations of all choices."""
    every = [parameter.choices for parameter in space.parameters]
    names = [parameter.name for parameter in space.parameters]
    found = set()
    for values in itertools.product(*every):
        asked = space.suggest(FixedTrial(dict(zip(names, values, strict=True))))
        found.add(tuple(space.point(asked).overrides))
    return found


def test_a_stage_is_asked_for_only_where_the_one_before_is_and_its_fields_only_with_it():
    space = space_of(
        f"{C7}.dilation=1,2",
        f"+{C7}=absent,{{depth:1,width:64}}",
        f"{C6}={ABSENT},{{depth:1,width:32}}",
        only_if={C7: C6},
    )
    c6, c7 = f"{C6}={{depth:1,width:32}}", "+backbone.stages={c7:{depth:1,width:64}}"
    assert points_of(space) == {
        (f"~{C6}",),
        (c6,),
        (c7, c6, f"{C7}.dilation=1"),
        (c7, c6, f"{C7}.dilation=2"),
    }


def test_a_condition_may_name_values():
    space = space_of("a=1,2,3", "b=x,y", only_if={"b": "a=1,3"})
    assert points_of(space) == {("a=2",)} | {
        (f"a={a}", f"b={b}") for a in (1, 3) for b in ("x", "y")
    }
