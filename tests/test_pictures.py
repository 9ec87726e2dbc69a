"""Pictures that an earlier analysis has drawn: taken where nothing has changed, drawn anew where anything has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_drawing import spec

from lcutils.charts.theme import DARK, LIGHT
from lcutils.report import pictures
from lcutils.report.pictures import DRAWN, draw_once, remember_pictures

SPECS = {name: spec(name) for name in ("one", "two")}
Drawn = list[str]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The names of what is drawn."""
    names: Drawn = []
    draw_all = pictures.draw_all

    def noted(specs: Mapping[str, str], *words: Any) -> dict[str, tuple[str, bytes]]:
        names.extend(specs)
        return draw_all(specs, *words)

    monkeypatch.setattr(pictures, "draw_all", noted)
    return names


@pytest.fixture
def earlier(tmp_path: Path, drawn: Drawn) -> Path:
    """A folder with two pictures."""
    folder = tmp_path / "figures"
    folder.mkdir()
    for name, (svg, png) in draw_once(SPECS, LIGHT, 1.0).items():
        (folder / f"{name}.svg").write_bytes(svg.encode())
        (folder / f"{name}.png").write_bytes(png)
    remember_pictures(folder, SPECS, LIGHT, 1.0)
    drawn.clear()
    return folder


def test_what_is_the_same_is_not_drawn_again(earlier, drawn, tmp_path):
    again = draw_once(SPECS, LIGHT, 1.0, [tmp_path / "none", earlier])
    assert not drawn
    assert again == draw_once(SPECS, LIGHT, 1.0)


def test_what_has_changed_is_drawn(earlier, drawn, monkeypatch):
    changed = SPECS | {"two": spec("changed"), "three": spec("three")}
    found = draw_once(changed, LIGHT, 1.0, [earlier])
    assert sorted(drawn) == ["three", "two"]
    assert found == draw_once(changed, LIGHT, 1.0)
    for config, scale in ((DARK, 1.0), (LIGHT, 2.0)):
        drawn.clear()
        assert draw_once(SPECS, config, scale, [earlier]) == draw_once(SPECS, config, scale)
        assert drawn == [*SPECS, *SPECS]
    drawn.clear()
    monkeypatch.setattr(pictures.drawing, "__file__", __file__)  # drawn by other code
    draw_once(SPECS, LIGHT, 1.0, [earlier])
    assert drawn == [*SPECS]


@pytest.mark.parametrize("damage", ["one.svg", "one.png", "gone", DRAWN, "no mapping"])
def test_what_is_damaged_is_drawn(earlier, drawn, damage):
    if damage == "gone":
        (earlier / "one.svg").unlink()
    elif damage == "no mapping":
        (earlier / DRAWN).write_text("[]")
    else:
        (earlier / damage).write_bytes((earlier / damage).read_bytes()[:-5])
    found = draw_once(SPECS, LIGHT, 1.0, [earlier])
    assert "one" in drawn
    assert found == draw_once(SPECS, LIGHT, 1.0)


def test_the_notes_name_every_picture(earlier):
    assert json.loads((earlier / DRAWN).read_text()).keys() == SPECS.keys()
