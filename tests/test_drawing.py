"""Pictures drawn here and in processes of their own."""

import io
import json

import pytest
from PIL import Image

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
