"""One of each from another package (tests/outside), by entry point, by `module:attribute` and as an object, in jobs."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from optuna.samplers import RandomSampler
from torch import nn

import compress
from compress.artefacts.artefact import load_artefact
from compress.artefacts.network import read_architecture
from compress.cli import check_network
from compress.data.picture import Part
from compress.data.sets import Sets, data_kind, picture_sets
from compress.data.synthetic import SyntheticPeople
from compress.engines import engine
from compress.errors import ArtefactError, CompressError, DataError, NetworkError, RecipeError
from compress.extensions import name_of
from compress.jobs.evaluate import evaluate
from compress.jobs.names import check_names
from compress.jobs.prune.prune import prune
from compress.jobs.rewrite.choice import list_rules
from compress.jobs.rewrite.rewrite import rewrite
from compress.jobs.search.search import search
from compress.jobs.train import train_network
from compress.nas.sampler import sampler_named
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.own import given_module
from compress.pose.approaches import approach_of
from compress.progress import Silent
from compress.pruning.importance import Scored, criterion_named
from compress.recipe import (
    Data,
    EvaluateRecipe,
    PruneRecipe,
    Pruning,
    RewriteRecipe,
    Search,
    SearchRecipe,
    TrainRecipe,
    fingerprint,
    to_data,
    validated,
)
from compress.rewriting.sites import rule_named

OUTSIDE = Path(__file__).parent / "outside"
HW = [64, 64]
SHORT = {"epochs": 1, "batch_size": 4, "warmup_steps": 0}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As if `pip install outside-pose` had been run."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    yield
    sys.modules.pop("outside_pose", None)


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """NETWORK: a record of a family that another package offers."""
    file = tmp_path / "tiny.yaml"
    file.write_text("family: tiny\nwidth: 16\n")
    return str(file)


# --- In jobs ---------------------------------------------------------------------------------------------------------


def test_a_family_an_approach_and_data_are_trained_and_evaluated(tiny: str, tmp_path: Path) -> None:
    recipe = TrainRecipe.model_validate({"input_hw": HW, "data": {"kind": "few_people"}, "training": SHORT})
    trained = train_network(tiny, recipe, tmp_path / "run", Silent())
    assert trained is not None
    assert trained.score is not None
    loaded = load_artefact(tmp_path / "run")
    assert type(loaded.architecture).__name__ == "Tiny"
    assert approach_of(loaded.architecture).name == "robust"
    assert (trained.score.metric, trained.score.data, trained.score.pictures) == ("AP", "few_people", 8)
    again = evaluate(tmp_path / "run", EvaluateRecipe(), Silent())
    assert again.score.value == trained.score.value
    one_set = SyntheticPeople(4, (64, 64), 5)
    other = evaluate(tmp_path / "run", EvaluateRecipe.model_validate({"data": {"kind": one_set}}), Silent())
    assert other.score.pictures == 4


def test_a_criterion_and_an_engine_prune(tiny: str, tmp_path: Path) -> None:
    measured = {"targets": ["eager"], "rounds": 4}
    pruning = {"ratio": 0.25, "criterion": "largest"}
    recipe = PruneRecipe.model_validate({"input_hw": HW, "pruning": pruning, **measured})
    found = prune(tiny, recipe, tmp_path / "run", Silent())
    given = architecture_from_data(yaml.safe_load(Path(tiny).read_text()), tiny)
    torch.manual_seed(1)
    scores = given.build().first.weight.detach().abs().amax((1, 2, 3))
    smaller = load_artefact(tmp_path / "run").module
    # A quarter of 16 filters, in the engine's multiple of 2, those of the least largest weight.
    assert torch.equal(smaller.first.weight, given_weight(given)[scores.argsort()[4:].sort().values])
    assert found.pruned.export("eager").files == ("model.pt2",)
    assert found.pruned.export("eager").parity < 1e-6
    assert found.speed_up["eager"].factor > 0


def given_weight(architecture: Any) -> torch.Tensor:
    torch.manual_seed(1)
    return architecture.build().first.weight


def test_a_rule_rewrites(tiny: str, tmp_path: Path) -> None:
    rules = {"rules": ["relu_to_leaky"], "min_gain": 0.0}
    recipe = RewriteRecipe.model_validate({"input_hw": HW, "targets": ["onnxruntime"], "rounds": 4, "rewriting": rules})
    found = rewrite(tiny, recipe, tmp_path / "run", Silent())
    assert [(row.rule, row.at) for row in found.choices] == [("relu_to_leaky", ("act",))]


def test_rules_of_other_packages_are_listed_last() -> None:
    assert list_rules()[-1].rule == "relu_to_leaky"


def test_a_sampler_searches(tiny: str, tmp_path: Path) -> None:
    train = TrainRecipe.model_validate({"input_hw": HW, "data": {"kind": "few_people"}, "training": SHORT})
    train_network(tiny, train, tmp_path / "start", Silent())
    space = tmp_path / "space.yaml"
    edits = {"act": {"sites": "act", "rewrite": ["keep", "relu_to_leaky"]}}
    space.write_text(yaml.safe_dump({"family": "tiny", "edits": edits}))
    recipe = SearchRecipe.model_validate(
        {
            "job": "search",
            "input_hw": HW,
            "data": {"kind": "few_people"},
            "measurement": {"rounds": 2, "targets": ["onnxruntime"], "parity_pictures": 1},
            "search": {"space": str(space), "start": str(tmp_path / "start"), "sampler": "quick_tpe", "trials": 2},
            "finalists": {"count": 1, "training": SHORT},
        }
    )
    search(recipe, tmp_path / "run", Silent())
    assert len((tmp_path / "run" / "trials.jsonl").read_text().splitlines()) == 2


def test_the_api_takes_objects(tmp_path: Path) -> None:
    from outside_pose import LEAKY, Eager, Tiny, largest

    given = compress.load(Tiny().build(), input_hw=(64, 64))
    small = compress.prune(given, ratio=0.25, criterion=largest, target=Eager(), rounds=4)
    assert small.module.network.first.out_channels == 12
    assert small.result.pruned.exports[0].engine == "outside_pose:Eager()"
    fast = compress.rewrite(small, rules=[LEAKY], min_gain=0, rounds=4, targets=["onnxruntime"])
    assert [row.rule for row in fast.result.choices] == ["outside_pose:LEAKY"]
    trained = compress.train(Tiny(), data=Sets(*(SyntheticPeople(8, (64, 64), n) for n in range(3))), **SHORT)
    assert compress.evaluate(trained, data=SyntheticPeople(4, (64, 64), 5)).score.pictures == 4


# --- Names and objects -----------------------------------------------------------------------------------------------


def test_objects_stand_where_names_do() -> None:
    import outside_pose

    assert engine(outside_pose.Eager()).name == engine("outside_pose:Eager").name == "eager"
    assert rule_named(name_of(outside_pose.LEAKY)).build is outside_pose.LEAKY.build
    pruning = Pruning(criterion=outside_pose.largest)
    assert pruning.criterion == "outside_pose:largest"
    assert criterion_named(pruning.criterion).score is outside_pose.largest
    assert name_of(outside_pose.Eager()) == "outside_pose:Eager()"
    assert engine("outside_pose:Eager()").name == "eager"
    own = RandomSampler(seed=3)
    found = sampler_named(Search(space="bhrnet_small", sampler=own).sampler)(20, 1)
    assert isinstance(found, RandomSampler)
    assert found is not own  # a copy: the object can be given again
    record = outside_pose.Tiny(width=8)
    assert architecture_from_data({**architecture_to_data(record), "family": "outside_pose:Tiny"}, "test") == record


def test_a_recipe_of_objects_goes_to_yaml_under_their_names() -> None:
    import outside_pose

    by_object = PruneRecipe(pruning=Pruning(ratio=0.5, criterion=outside_pose.largest))
    by_name = PruneRecipe.model_validate({"pruning": {"ratio": 0.5, "criterion": "outside_pose:largest"}})
    assert fingerprint(by_object) == fingerprint(by_name)
    assert PruneRecipe.model_validate(to_data(by_object)) == by_object


def test_objects_that_cannot_be_imported_are_known_in_this_process() -> None:
    def smallest(scored: Scored) -> dict[int, float]:
        return {}

    one, other = name_of(smallest), name_of(lambda scored: {})
    assert one.endswith("smallest@1")
    assert one != other
    assert name_of(smallest) == one
    assert criterion_named(one).score is smallest
    with pytest.raises(RecipeError, match=r"no such attribute.*give it again"):
        criterion_named(one.replace("@1", "@7"))


def test_one_set_of_pictures_validates_and_three_train() -> None:
    people = [SyntheticPeople(6, (64, 64), seed) for seed in range(3)]
    alone, three = Data(kind=people[0]), Data(kind=Sets(*people))
    assert data_kind(alone.kind).val(alone, (64, 64), 1) is people[0]
    with pytest.raises(DataError, match=r"Sets\(train, search, val\)"):
        picture_sets(alone, (64, 64), 1)
    assert picture_sets(three, (64, 64), 1) == Sets(*people)


def test_a_part_of_any_set_is_its_pictures() -> None:
    whole = SyntheticPeople(6, (64, 64), 1)
    part = Part(whole, (4, 1))
    assert [part.image_id(index) for index in range(len(part))] == [whole.image_id(4), whole.image_id(1)]
    assert {image["id"] for image in part.coco["images"]} == {whole.image_id(4), whole.image_id(1)}
    assert len(part.coco["annotations"]) == len(whole.people(4)) + len(whole.people(1))
    assert (part.image(0) == whole.image(4)).all()


# --- Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "found"),
    [
        ("broken", r"^recipe: pruning.criterion: the package outside-pose, which offers this criterion, fails: "),
        ("larges", r"^recipe: pruning.criterion: no such criterion .*did you mean 'largest'\?$"),
        ("outside_pose:larges", r"^recipe: pruning.criterion: outside_pose has no such attribute \(found 'larges'\)"),
        ("nowhere:largest", r"^recipe: pruning.criterion: no such module \(found 'nowhere'\)"),
        ("outside_pose:OPSET", "no such attribute"),
        ("sys:version", "no criterion: it must be a function of a Scored"),
    ],
)
def test_a_wrong_name_is_one_line(criterion: str, found: str) -> None:
    recipe = PruneRecipe.model_validate({"pruning": {"ratio": 0.5, "criterion": criterion}})
    with pytest.raises(RecipeError, match=found) as caught:
        check_names(recipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("find", [engine, rule_named, sampler_named, data_kind, criterion_named])
def test_things_of_another_kind_are_refused(find: Callable[[object], object]) -> None:
    for other in (b"bytes", "sys:path"):
        with pytest.raises(CompressError, match="it must be "):
            find(other)


def test_what_cannot_be_made_is_one_line() -> None:
    with pytest.raises(CompressError, match="this engine cannot be made: TypeError"):
        engine("outside_pose:EagerRunner")


def test_the_nearest_family_may_be_another_packages() -> None:
    with pytest.raises(NetworkError, match="did you mean 'tiny'"):
        architecture_from_data({"family": "tinny"}, "test")


def test_a_name_is_text() -> None:
    with pytest.raises(RecipeError, match=r"data\.kind: it must be a valid string"):
        validated({"data": {"kind": 3}}, TrainRecipe, {}, "recipe")


def test_a_network_by_the_name_of_another_package() -> None:
    from outside_pose import WIDE

    assert read_architecture("wide") == read_architecture("outside_pose:WIDE") == WIDE
    assert read_architecture("untrained") == read_architecture("outside_pose:untrained")
    check_network("wide")
    with pytest.raises(ArtefactError, match="did you mean 'wide'"):
        check_network("wid")
    with pytest.raises(ArtefactError, match="did you mean 'wide'"):
        read_architecture("wid")


def test_a_module_has_an_approach_of_another_package() -> None:
    network = Marked()
    assert approach_of(given_module(network)).name == "robust"
    network.approach = "robusst"
    with pytest.raises(NetworkError, match="approach must be one of"):
        given_module(network)


class Marked(nn.Conv2d):
    approach = "robust"
    keypoints = 17

    def __init__(self) -> None:
        super().__init__(3, 17, 3, 4, 1)
