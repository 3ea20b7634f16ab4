"""What a search is asked for, checked before any work: its space, the network it starts from, its baselines."""

from dataclasses import asdict

from compress.artefacts.artefact import Artefact, load_artefact
from compress.errors import RecipeError, SpaceError
from compress.nas.candidate import Candidates
from compress.nas.space import Pick, Space, SpaceFile, expand, read_space
from compress.networks import Architecture, architecture_from_data, architecture_to_data, family_named
from compress.networks.architecture import check_input
from compress.pose.approaches import approach_of
from compress.recipe import SearchRecipe, find, noted_codec


def read_start(recipe: SearchRecipe) -> Artefact | None:
    """The network to start from, if the recipe names one. Raises ArtefactError, NetworkError or RecipeError."""
    if recipe.search.start is None:
        return None
    start = load_artefact(recipe.search.start)
    check_input(start.architecture, recipe.input_hw, "recipe: input_hw")
    codec = noted_codec(start.facts)
    for key in asdict(codec):
        if key != "name" and getattr(codec, key) != getattr(recipe.codec, key):
            raise RecipeError(
                "a given network is decoded and tuned as it was trained",
                place=f"recipe: codec.{key}",
                value=getattr(recipe.codec, key),
                remedy=f"use {getattr(codec, key)}, as its artefact says",
            )
    return start


def read_search_space(recipe: SearchRecipe, start: Artefact | None = None) -> Space:
    """The recipe's space, every single choice tried on the network. Raises SpaceError or NetworkError."""
    path = find(recipe.search.space, "search_spaces", SpaceError)
    file = read_space(path)
    if start:
        return space_around(start, file)
    family_named(file.family, f"{path}: family")
    place = f"{path}: fixed"
    space = expand(file, architecture_to_data(architecture_from_data({"family": file.family, **file.fixed}, place)))
    smallest = architecture_from_data(space.apply(space.smallest), f"{path}: choices")
    for choice, values in space.architectures.choices.items():
        for value in values:
            architecture = architecture_from_data(
                space.apply({**space.smallest, choice: value}), f"{path}: choices.{choice}"
            )
            check_input(architecture, recipe.input_hw, "recipe: input_hw")
            if answers_of(architecture) != answers_of(smallest):
                raise SpaceError(
                    "all candidates must have the same outputs",
                    place=f"{path}: choices.{choice}",
                    value=value,
                    remedy="fix the head and the joints instead of choosing them",
                )
    return space


def answers_of(architecture: Architecture) -> tuple[int, tuple[int, ...]]:
    """Joints, and the strides of the maps; where outputs are stages of one map, of the last."""
    strides = architecture.output_strides
    return architecture.keypoints, strides[-1:] if approach_of(architecture).in_stages else strides


def space_around(start: Artefact, file: SpaceFile) -> Space:
    """Edits of a given network. Raises SpaceError unless the space has nothing but edits, of a network built so."""
    base = architecture_to_data(start.architecture)
    if file.choices or not file.edits:
        raise SpaceError(
            "a given network has edits to choose from, and no other choices",
            place=f"{file.path}: choices",
            value=list(file.choices),
            remedy="write 'edits' alone, or leave search.start out of the recipe",
        )
    if file.family != base["family"]:
        raise SpaceError(
            "the space and the network to start from must be of one family",
            place=f"{file.path}: family",
            value=file.family,
            remedy=f"write {base['family']} if its edits suit it",
        )
    fixed = architecture_to_data(architecture_from_data({**base, **file.fixed}, f"{file.path}: fixed"))
    for key, value in fixed.items():
        if value != base[key]:
            raise SpaceError(
                "the network to start from is built otherwise",
                place=f"{file.path}: fixed.{key}",
                value=value,
                remedy=f"it has {base[key]}; leave the field out",
            )
    return expand(file, base)


def read_candidates(recipe: SearchRecipe, space: Space, start: Artefact | None) -> Candidates:
    """What the space's picks stand for, its edits tried on the ends of the space. Raises SpaceError."""
    candidates = Candidates(space, recipe.input_hw, start)
    candidates.check(recipe.search.space)
    return candidates


def check_tuning(recipe: SearchRecipe) -> None:
    """Raises RecipeError if trials are tuned on less than a batch."""
    batch = recipe.finalists.training.batch_size
    if 0 < recipe.search.tuning_samples < batch:
        raise RecipeError(
            "trials are tuned on at least one batch of finalists.training",
            place="recipe: search.tuning_samples",
            value=recipe.search.tuning_samples,
            remedy=f"use at least {batch}, or 0 for none",
        )


def read_baselines(recipe: SearchRecipe, space: Space) -> dict[str, Pick]:
    """Every hand-made network as a pick of the space, or the given one. Raises SpaceError where the space lacks one."""
    if recipe.search.start and recipe.baselines:
        raise RecipeError(
            "the given network is the only baseline of a search that starts from one",
            place="recipe: baselines",
            value=list(recipe.baselines),
            remedy="leave them out",
        )
    picks = {"given": space.unedited} if recipe.search.start else {}
    if recipe.search.budget.latency is not None and not (picks or recipe.baselines):
        raise RecipeError(
            "a share is of the slowest baseline's latency, and there is no baseline",
            place="recipe: search.budget.latency",
            value=f"{recipe.search.budget.latency:.0%}",
            remedy="give baselines, or a limit of milliseconds as search.budget.latency_ms",
        )
    scored_first = len(picks) + len(recipe.baselines)
    if recipe.search.trials <= scored_first:
        raise RecipeError(
            "there must be more trials than baselines, which are scored first",
            place="recipe: search.trials",
            value=recipe.search.trials,
            remedy=f"use at least {scored_first + 1}",
        )
    for name, fields in recipe.baselines.items():
        place = f"recipe: baselines.{name}"
        data = architecture_to_data(architecture_from_data({**space.base, **fields}, place))
        picks[name] = space.pick_of(data, place)
    return picks
