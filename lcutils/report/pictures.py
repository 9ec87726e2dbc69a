"""Pictures of an analysis: those that an earlier one has drawn from the same specification are taken from there.

Drawing takes half of an analysis's time, and where an analysis is made again most of its figures stay what they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lcutils import drawing
from lcutils.artifacts import file_digest, write_json
from lcutils.drawing import draw_all

DRAWN = ".drawn.json"  # beside the pictures: what each was drawn from, and the digests of its files
KINDS = ("svg", "png")
ENGINES = ("vl-convert-python", "pillow")


def draw_once(
    specs: Mapping[str, str], config: Mapping[str, Any], scale: float, earlier: Iterable[Path] = ()
) -> dict[str, tuple[str, bytes]]:
    """SVG and PNG of each specification, by name.

    Args:
        specs: Vega-Lite, as JSON, by the figure's name.
        config: the colours of all.
        scale: of the PNGs.
        earlier: folders of pictures that may be the same, as `remember_pictures` left them.
    """
    pictures: dict[str, tuple[str, bytes]] = {}
    for folder in earlier:
        pictures |= _still_good(folder, {n: spec for n, spec in specs.items() if n not in pictures}, config, scale)
    return pictures | draw_all({n: spec for n, spec in specs.items() if n not in pictures}, config, scale)


def remember_pictures(folder: Path, specs: Mapping[str, str], config: Mapping[str, Any], scale: float) -> None:
    """Note what the pictures in a folder were drawn from, for a later analysis."""
    facts = {name: _facts(folder, name, spec, config, scale) for name, spec in specs.items()}
    write_json(folder / DRAWN, facts)


def _still_good(
    folder: Path, specs: Mapping[str, str], config: Mapping[str, Any], scale: float
) -> dict[str, tuple[str, bytes]]:
    """The pictures of a folder that were drawn from these specifications and are as they were written."""
    found: dict[str, tuple[str, bytes]] = {}
    try:
        known = json.loads((folder / DRAWN).read_bytes())
        for name in specs.keys() & known.keys():
            if known[name] == _facts(folder, name, specs[name], config, scale):
                svg, png = ((folder / f"{name}.{kind}").read_bytes() for kind in KINDS)
                found[name] = svg.decode(), png
    except (OSError, ValueError, AttributeError):  # no such folder, another's, or damaged: what is missing is drawn
        pass
    return found


def _facts(folder: Path, name: str, spec: str, config: Mapping[str, Any], scale: float) -> dict[str, str]:
    """What a picture is drawn from, by and to: the specification, the engines, this package's part, the files."""
    by = [*map(version, ENGINES), file_digest(Path(drawing.__file__))]
    made_from = json.dumps([spec, dict(config), scale, by])
    digests = {kind: file_digest(folder / f"{name}.{kind}") for kind in KINDS}
    return {"from": hashlib.sha256(made_from.encode()).hexdigest(), **digests}
