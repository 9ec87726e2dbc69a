"""Loss curves of ours and of the Trainer laid over each other, and their difference: python draw_curves.py FILE OUT.svg

FILE is what `train.py --curves` wrote: both from the same weights over the same batches.
"""

import json
import sys
from pathlib import Path

import altair as alt
import pandas as pd

from lcutils.charts.theme import OKABE_ITO, PANEL, Figure

ROOM = 130  # height of the difference's panel, pixels


def curves_figure(lines: list[dict]) -> Figure:
    """One column a model: both losses above, ours less the Trainer's below."""
    columns = []
    for line in (line for line in lines if line["part"] == "curves"):
        table = pd.DataFrame({"step": range(1, line["steps"] + 1), "Trainer": line["trainer"], "ours": line["ours"]})
        table["difference"] = 1e3 * (table["ours"] - table["Trainer"])
        base = alt.Chart(table, width=PANEL).encode(alt.X("step:Q", title="step"))
        who = alt.Scale(domain=["Trainer", "ours"], range=[OKABE_ITO[1], OKABE_ITO[0]])
        losses = (
            base.transform_fold(["Trainer", "ours"], as_=["who", "loss"])
            .mark_line(strokeJoin="round")
            .encode(
                alt.Y("loss:Q", title="training loss (nats)", scale=alt.Scale(zero=False)),
                alt.Color("who:N", title=None, scale=who, legend=alt.Legend(symbolStrokeWidth=3)),
                alt.StrokeWidth("who:N", scale=alt.Scale(domain=["Trainer", "ours"], range=[6, 1.5]), legend=None),
            )
            .properties(title=line["model"])
        )
        apart = base.mark_line(color=OKABE_ITO[0], strokeWidth=1).encode(
            alt.Y("difference:Q", title="ours − Trainer (10⁻³ nats)", scale=alt.Scale(domain=[-0.25, 0.25]))
        )
        columns.append(alt.vconcat(losses, apart.properties(height=ROOM)))
    return Figure("curves", "200 steps from the same weights over the same batches", chart=alt.hconcat(*columns))


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(curves_figure([json.loads(line) for line in source.open()]).svg)
