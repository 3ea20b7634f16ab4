"""MkDocs hooks: the recipe reference from the descriptions of the recipes' keys, and links into the repository."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from compress import recipe
from compress.data.sets import DATA_KINDS
from compress.engines import ENGINES
from compress.nas.sampler import SAMPLERS
from compress.pose.codec import PRESETS
from compress.pruning.importance import CRITERIA

ROOT = Path(__file__).parent.parent
MARKER = "<!-- recipe reference -->"
RECIPES: tuple[type[BaseModel], ...] = (
    recipe.SearchRecipe,
    recipe.TrainRecipe,
    recipe.PruneRecipe,
    recipe.RewriteRecipe,
    recipe.EvaluateRecipe,
    recipe.ExportRecipe,
    recipe.ProfileRecipe,
    recipe.LatencyRecipe,
    recipe.PredictRecipe,
    recipe.NetworksRecipe,
)
NAMES = {
    "criterion": CRITERIA,
    "engines": ENGINES,
    "kind": DATA_KINDS,
    "sampler": SAMPLERS,
}
"""Keys whose value names an entry of a table, to which other packages add."""

Schema = dict[str, Any]

_PICTURE = r"!\[[^\]]*\]\("
_ENOUGH = 1_000_000  # an upper limit that no one reaches is not worth a reader's time


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs with all files of the site: adds the pictures of `reports/` that pages show."""
    for page in files.documentation_pages():
        for picture in re.findall(rf"{_PICTURE}\.\./([^)]+)\)", page.content_string):
            files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page. A link out of `docs/` works in the repository; on the page its path stands."""
    if MARKER in markdown:
        markdown = markdown.replace(MARKER, recipe_reference())
    markdown = re.sub(rf"({_PICTURE})\.\./", r"\1", markdown)
    return re.sub(r"(?<!!)\[([^\]]*)\]\(\.\./([^)]+)\)", _path, markdown)


def recipe_reference() -> str:
    """Markdown: a table for every recipe, then for every section that they have, then the codec's presets."""
    sections: Schema = {}
    parts = []
    for model in RECIPES:
        schema = _schema(model)
        sections |= schema.get("$defs", {})
        for name in list(sections):  # of a section that extends another one, that one too
            parent = getattr(recipe, name, object).__mro__[1]
            if issubclass(parent, recipe.Settings) and parent is not recipe.Settings:
                sections.setdefault(parent.__name__, _schema(parent))
        command = schema["properties"]["job"]["const"]
        parts.append(f"## compress {command}\n\n{_docstring(schema)}\n\n{_table(schema['properties'], sections)}")
    parts.append("## Sections")
    for name in sorted(sections):
        parts.append(f"### {name}\n\n{_section(name, sections)}")
    presets = [f"| `{name}` | {_changes(changes)} |" for name, changes in PRESETS.items()]
    parts.append(
        "\n".join(["### Presets of the codec", "", "| preset | differs from `ours` in |", "|---|---|", *presets])
    )
    return "\n\n".join(parts)


class _WithObjects(GenerateJsonSchema):
    """Where a key takes a Python object too, that is said instead of refused."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {"type": "Python object"}


def _schema(model: type[BaseModel]) -> Schema:
    return TypeAdapter(model).json_schema(schema_generator=_WithObjects)


def _docstring(schema: Schema) -> str:
    return re.sub(r"\s*\n\s*", " ", schema.get("description", ""))


def _section(name: str, sections: Schema) -> str:
    """A section that extends another one shows its own keys and names the other."""
    schema = sections[name]
    model = getattr(recipe, name, None)
    parent = model.__mro__[1] if isinstance(model, type) and issubclass(model, recipe.Settings) else recipe.Settings
    keys = schema["properties"]
    text = _docstring(schema)
    if parent is not recipe.Settings:
        inherited = _schema(parent)["properties"]
        keys = {key: value for key, value in keys.items() if value != inherited.get(key)}
        text += f" All keys of [{parent.__name__}](#{parent.__name__.lower()}), and:"
    return f"{text}\n\n{_table(keys, sections)}"


def _table(properties: Schema, sections: Schema) -> str:
    def meaning(schema: Schema) -> str:  # a description equal to its section's docstring stands only there
        named = sections.get(schema.get("$ref", "").rpartition("/")[2], {})
        return str(schema.get("description") or _docstring(named)).replace("|", "\\|")

    rows = [
        f"| `{key}` | {_kind(schema, NAMES.get(key, ()))} | {_default(schema)} | {meaning(schema)} |"
        for key, schema in properties.items()
        if key != "job"
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _kind(schema: Schema, names: Iterable[str] = ()) -> str:
    """What a value may be, in words. names: that a text may be; `…` stands for those of other packages."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if alternatives := schema.get("anyOf") or schema.get("allOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(one, names) for one in alternatives))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "prefixItems" in schema:
        kinds = [_kind(one) for one in schema["prefixItems"]]
        return f"{len(kinds)} × {kinds[0]}" if len(set(kinds)) == 1 else f"[{'; '.join(kinds)}]"
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), names)}"
    if schema.get("type") == "object":
        values = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), {})
        return f"mapping to {_kind(values) if isinstance(values, dict) and values else 'any'}"
    if schema.get("type") == "string" and names:
        return ", ".join([*(f"`{name}`" for name in names), "…"])
    kind = "path" if schema.get("format") == "path" else schema.get("type", "any").replace("boolean", "true or false")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema and schema[key] < _ENOUGH]
    return " ".join([kind, " and ".join(limits)]).strip()


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return "required"
    default = schema["default"]
    if isinstance(default, dict) and default:
        return "see there"
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _changes(changes: Schema) -> str:
    return ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in changes.items()) or "nothing"


def _path(link: re.Match[str]) -> str:
    text, target = link.groups()
    return f"`{text}`" if target.startswith(text) else f"{text} (`{target}`)"
