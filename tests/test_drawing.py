"""Pictures drawn here and in processes of their own."""

import io
import json
import re

import pytest
from PIL import Image
from vl_convert import vegalite_to_svg

from lcutils import drawing
from lcutils.charts.theme import LIGHT
from lcutils.drawing import draw_all, draw_png, draw_svg


def spec(title: str) -> str:
    values = [{"x": n, "y": n * n, "clip": "clip7"} for n in range(5)]
    encoding = {name: {"field": name, "type": "quantitative"} for name in ("x", "y")}
    encoding |= {"color": {"field": "y", "type": "quantitative", "scale": {"scheme": "viridis"}}}
    mark = {"type": "line", "clip": True}
    return json.dumps({"title": title, "data": {"values": values}, "mark": mark, "encoding": encoding})


def test_a_picture_is_the_same_however_often_it_is_drawn():
    first, other, again = (draw_svg(spec(title), LIGHT) for title in ("clip51 é", "another", "clip51 é"))
    assert first == again != other
    assert 'id="clip' in first
    assert 'id="gradient_' in first
    assert "clip51 é" in first  # a title is no number of the engine's
    for name in ("clip", "gradient_"):
        used = {part.split(")")[0] for part in first.split(f"url(#{name}")[1:]}
        assert all(f'id="{name}{number}"' in first for number in used)
        assert used


def test_titles_and_axes_have_words_for_a_screen_reader_and_marks_have_none():
    """The picture is that which the engine draws with words for all."""
    svg, talking = draw_svg(spec("a title"), LIGHT), vegalite_to_svg(spec("a title"), "6.4", config=LIGHT)
    said = re.findall('aria-label="([^"]*)"', svg)
    assert any("a title" in words for words in said)
    assert any("axis" in words for words in said)
    assert not any("x: " in words for words in said)
    assert "x: " in talking
    assert draw_png(svg) == draw_png(talking)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_processes_draw_what_this_one_would(monkeypatch, cores):
    monkeypatch.setattr(drawing.os, "cpu_count", lambda: cores)
    specs = {f"picture {number}": spec(f"number {number}") for number in range(9)}
    drawn = draw_all(specs, LIGHT, scale=1.5)
    assert drawn.keys() == specs.keys()
    for name in specs:
        svg, png = drawn[name]
        assert svg == draw_svg(specs[name], LIGHT)
        assert png == draw_png(svg, 1.5)
        assert Image.open(io.BytesIO(png)).size[0] > 100


def test_what_cannot_be_drawn_ends_with_the_engines_words(monkeypatch):
    monkeypatch.setattr(drawing.os, "cpu_count", lambda: 2)
    specs = {str(number): spec("fine") for number in range(8)} | {"bad": '{"mark": 7}'}
    with pytest.raises(RuntimeError, match="drawing failed: "):
        draw_all(specs, LIGHT, scale=1.0)
