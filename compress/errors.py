"""Everything that can go wrong through no fault of the program. One line each, exit code 2; BudgetError's is 3.

CompressError
├── RecipeError     a recipe: unknown key, wrong type, value out of range
├── SpaceError      a search space: unknown choice, choice outside the network's range
├── DataError       a dataset or a picture: missing folder, broken json, undecodable image, bad annotation
├── NetworkError    a network: unknown name, input size that the strides do not allow
├── ArtefactError   a saved network: missing file, weights of another architecture
├── BudgetError     a budget that no candidate meets
├── RunError        a run folder: not writable, belongs to another recipe
├── DivergedError   a training: the loss became NaN or infinite
├── EngineError     an inference engine: missing, refuses the model, cannot be timed
├── ParityError     an exported model whose outputs differ from torch
└── TableError      a latency table: another engine version, another device, broken file
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_LISTED = 60  # names that a remedy lists


class CompressError(Exception):
    """A mistake the user can repair: says the rule, the value, the place and the remedy in one line.

    rule: what must hold. place: file and key, or what was being read. value: what was found instead.
    remedy: what to do now.
    """

    def __init__(self, rule: str, *, place: str, remedy: str, value: object = None) -> None:
        self.rule, self.value, self.place, self.remedy = rule, value, place, remedy
        found = "" if value is None else f" (found {_short(value)})"
        super().__init__(" ".join(f"{place}: {rule}{found}; {remedy}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes; the value as text."""
        value = None if self.value is None else str(self.value)
        return _rebuild, (type(self), self.rule, self.place, self.remedy, value)


class RecipeError(CompressError):
    """A mistake in a recipe."""


class SpaceError(CompressError):
    """A mistake in a search space."""


class DataError(CompressError):
    """A dataset or picture that cannot be used."""


class NetworkError(CompressError):
    """A network that does not exist or cannot take what it is given."""


class ArtefactError(CompressError):
    """A saved network that cannot be rebuilt."""


class BudgetError(CompressError):
    """A budget that no candidate of the space meets."""


class RunError(CompressError):
    """A run folder that cannot be used."""


class DivergedError(CompressError):
    """A training whose loss became NaN or infinite."""


class EngineError(CompressError):
    """An inference engine that is missing or refuses a model."""


class ParityError(CompressError):
    """An exported model that does not give torch's outputs."""


class TableError(CompressError):
    """A latency table that cannot be used."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C while a run was open. folder: the run's, from which it goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__()


def no_artefact(folder: Path, reason: str | None = None) -> ArtefactError:
    """The folder is no artefact. reason: why its files cannot be read."""
    return ArtefactError(
        "an artefact is a folder with architecture.yaml and weights.safetensors",
        place=str(folder),
        value=reason
        or ("no architecture.yaml" if folder.is_dir() else "a file" if folder.exists() else "no such folder"),
        remedy=_below(folder) or "give a finalist's folder of a search, or a training's run folder",
    )


def _below(folder: Path) -> str:
    """The artefacts in a run folder, as a remedy; '' without any."""
    found = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/architecture.yaml"))
    return f"it holds: {', '.join(map(str, found[:_LISTED]))}; give one of them" if found else ""


def untrained(name: str) -> ArtefactError:
    """A network's name stands where weights are needed."""
    return ArtefactError(
        "a network that is known by its name has no trained weights",
        place="ARTEFACT",
        value=name,
        remedy=f"give an artefact's folder: `compress train {name}` makes one, `compress import` one of a checkpoint",
    )


def unknown_network(name: str, known: Iterable[str], place: str = "NETWORK") -> ArtefactError:
    """No NETWORK is called that. known: the networks' names. place: the argument or option."""
    if Path(name).is_dir() and (below := _below(Path(name))):
        return ArtefactError("a run folder is not a network", place=place, value=name, remedy=below)
    close = get_close_matches(name, known, n=1)
    return ArtefactError(
        "a network is a known name, a YAML file of one, an artefact's folder, package.module:function, an ONNX file "
        "or NAME@FILE of a public checkpoint",
        place=place,
        value=name,
        remedy=(f"did you mean {close[0]!r}? " if close else "") + "`compress networks` lists the names",
    )


def _rebuild(kind: type[CompressError], rule: str, place: str, remedy: str, value: str | None) -> CompressError:
    return kind(rule, place=place, remedy=remedy, value=value)


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one if there is any, else the first of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names[:_LISTED])}{more}"


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
