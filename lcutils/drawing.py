"""Vega-Lite specifications to pictures, several at a time by processes of their own.

The drawing engine takes most of an analysis's time and works on one picture at a time. `python -m lcutils.drawing`
draws the specifications that it reads; `draw_all` shares them out among some of those.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NO_PICTURES = "LCUTILS_NO_PICTURES"  # in the environment of a sweep's kernels: their notebooks hold live charts alone
VEGALITE_VERSION = "6.4"  # of vl-convert, the release that Altair 6.3 writes for
MOST_PROCESSES = 8
WORTH_A_PROCESS = 4  # pictures: fewer are drawn before it has started


def draw_svg(spec: str, config: Mapping[str, Any]) -> str:
    """A specification, as JSON, as SVG. Titles and axes have words for a screen reader, single marks do not.

    These words, of every point, would be more than half of the file.
    """
    import vl_convert

    quiet = {**config, "mark": {**config.get("mark", {}), "aria": False}}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGALITE_VERSION, config=quiet)
    # The engine numbers clips and gradients on and on; here they count from 0 in every picture.
    numbers: dict[str, int] = {}
    return re.sub(
        r'(?<=id=")(clip|gradient_)\d+(?=")|(?<=url\(#)(clip|gradient_)\d+(?=\))',
        lambda found: f"{found[1] or found[2]}{numbers.setdefault(found[0], len(numbers))}",
        svg,
    )


def draw_png(svg: str, scale: float = 1.0, colours: int | None = None) -> bytes:
    """An SVG as PNG; 256 colours, of which a chart has few, take a third of the bytes."""
    import vl_convert
    from PIL import Image

    # vl-convert packs its PNGs fast, not small.
    picture = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=scale))).convert("RGB")
    if colours is not None:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def draw_all(specs: Mapping[str, str], config: Mapping[str, Any], scale: float) -> dict[str, tuple[str, bytes]]:
    """SVG and PNG of each specification, by name: in as many processes as there are cores, within reason."""
    processes = min(os.cpu_count() or 1, MOST_PROCESSES, len(specs) // WORTH_A_PROCESS)
    if processes < 2:
        return _draw(specs, config, scale)
    shares = [dict(list(specs.items())[first::processes]) for first in range(processes)]

    def elsewhere(share: dict[str, str]) -> dict[str, tuple[str, bytes]]:
        request = json.dumps({"specs": share, "config": config, "scale": scale})
        command, here = [sys.executable, "-m", "lcutils.drawing"], Path(__file__).parents[1]  # this very package
        outcome = subprocess.run(command, input=request, capture_output=True, text=True, encoding="utf-8", cwd=here)
        if outcome.returncode:
            raise RuntimeError(f"drawing failed: {outcome.stderr.strip()[-2000:]}")
        return {name: (svg, base64.b64decode(png)) for name, (svg, png) in json.loads(outcome.stdout).items()}

    with ThreadPoolExecutor(processes) as pool:
        drawn: dict[str, tuple[str, bytes]] = {}
        for share in pool.map(elsewhere, shares):
            drawn |= share
    return drawn


def _draw(specs: Mapping[str, str], config: Mapping[str, Any], scale: float) -> dict[str, tuple[str, bytes]]:
    pictures = {name: draw_svg(spec, config) for name, spec in specs.items()}
    return {name: (svg, draw_png(svg, scale)) for name, svg in pictures.items()}


def main() -> None:
    """Draw what standard input asks for; the pictures go to standard output."""
    drawn = _draw(**json.load(sys.stdin))
    json.dump({name: (svg, base64.b64encode(png).decode()) for name, (svg, png) in drawn.items()}, sys.stdout)


if __name__ == "__main__":
    main()
