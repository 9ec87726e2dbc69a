"""Write the table of keys in `parameters/README.md` from the schema: `python parameters/write_readme.py`."""

import ast
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lcutils.parameters import Study
from lcutils.settings import GridEntry, PretrainedFields, Section

PAGE = Path(__file__).with_name("README.md")
START, END = "<!-- keys: written by write_readme.py -->\n", "<!-- end of keys -->\n"
FROM_THE_FILE = {"name", "source"}  # of a study: taken from its YAML file, no keys


def meanings(section: type[Section]) -> dict[str, str]:
    """The comment beside each key, or in the lines above it."""
    lines = inspect.getsource(section).splitlines()
    found = {}
    for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign):
            continue
        _, _, beside = lines[node.lineno - 1][node.end_col_offset :].partition("# ")
        above: list[str] = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.strip().startswith("# "):
                break
            above.insert(0, line.strip().removeprefix("# "))
        found[ast.unparse(node.target)] = beside or " ".join(above)
    return found


def default(field: FieldInfo) -> str:
    """A key's default as YAML would say it."""
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    text = json.dumps(value)
    if value is None or value in ((), {}, ""):
        return "none"
    return f"`{text}`" if len(text) <= 60 else f"{len(value)} values: `{text[:40]} …`"


def table(section: type[Section], prefix: str = "") -> str:
    """One row per key of a section, without its own sections."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    said = meanings(section)
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section) or (section is Study and name in FROM_THE_FILE):
            continue
        rows.append(f"| `{prefix}{name}` | {default(field)} | {said[name].replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def keys() -> str:
    """All tables, a heading above each."""
    sections = {name: type(f.default) for name, f in Study.model_fields.items() if isinstance(f.default, Section)}
    parts = [f"### The study itself\n\n{table(Study)}\n"]
    for name, section in sections.items():
        parts.append(f"### `{name}`\n\n{inspect.getdoc(section)}\n\n{table(section, f'{name}.')}\n")
    parts.append(f"### An entry of `grid`\n\n{inspect.getdoc(GridEntry)}\n\n{table(GridEntry)}\n")
    title = "### A model under `pretrained`"
    parts.append(f"{title}\n\n{inspect.getdoc(PretrainedFields)}\n\n{table(PretrainedFields)}\n")
    return "\n".join(parts)


def page() -> str:
    """The page with the present schema's keys."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return f"{before}{START}\n{keys()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
