"""The names in a recipe that others may add to (compress.extensions): all are looked up before any work."""

from collections.abc import Callable, Iterator
from typing import Any

from compress.errors import CompressError, RecipeError
from compress.recipe import Settings


def check_names(recipe: Settings) -> None:
    """Raises RecipeError for a name that stands for nothing, at the option or key that gave it.

    Also for data on disk without a folder.
    """
    for key, value in _values(recipe, ""):
        find = _finder(key.rpartition(".")[2])
        for name in value if isinstance(value, tuple) else (value,):
            if find is None or name is None:
                continue
            place = recipe.place(key)
            try:
                find(name, place)
            except CompressError as wrong:
                raise RecipeError(wrong.rule, place=wrong.place, value=wrong.value, remedy=wrong.remedy) from wrong
    if getattr(recipe, "data", None) is not None:
        _check_data(recipe)


def _values(settings: Settings, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every key with its value, those of sections too."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _finder(key: str) -> Callable[[Any, str], object] | None:
    """What looks up the values of such a key; imported now, because tables import much."""
    match key:
        case "engines":
            from compress.engines import engine

            return engine
        case "target" | "targets":
            from compress.measure.latency_model import check_target

            return check_target
        case "criterion":
            from compress.pruning.importance import criterion_named

            return criterion_named
        case "sampler":
            from compress.nas.sampler import sampler_named

            return sampler_named
        case "rules":
            from compress.rewriting.sites import rule_named

            return rule_named
        case "kind":
            from compress.data.sets import data_kind

            return data_kind
    return None


def _check_data(recipe: Any) -> None:
    from compress.data.sets import data_kind

    data = recipe.data
    kind = data_kind(data.kind)
    if kind.on_disk and data.disk.folder is None:
        raise RecipeError(
            f"kind {data.kind} needs disk.folder, the folder with the pictures and annotations",
            place=recipe.place("data.kind"),
            remedy="give it with --data KIND:FOLDER or data.disk.folder",
        )
