"""Lanes: what follows one another in one warm process, and in which order."""

import pytest

from lcutils.parameters import load_study
from lcutils.pipeline.lanes import lanes


def test_the_papers_lanes_are_its_architectures_with_most_work_first():
    study = load_study("paper")
    found = lanes(study)
    assert len(found) == 30
    assert (found[0].name, found[-1].name) == ("12x1024", "01x0064")
    assert sorted(name for lane in found for name in lane.runs) == sorted(study.runs)
    assert all(len({study.runs[name].depth for name in lane.runs}) == 1 for lane in found)
    assert sum(lane.share for lane in found) == pytest.approx(1.0)
    assert [lane.share for lane in found] == sorted((lane.share for lane in found), reverse=True)


def test_a_large_lane_may_run_several_jobs_at_a_time():
    first, *_, last = lanes(load_study("paper"))
    assert 0.1 < first.share < 0.25
    assert [first.tickets(jobs) for jobs in (1, 3, 8, 100)] == [1, 1, 2, round(100 * first.share + 0.5)]
    assert last.tickets(100) == 1
    (only,) = lanes(
        load_study("demo", {"grid": [{"depth": 1, "width": 64, "epochs": 1, "decay": "d", "checkpoints": 0}]})
    )
    assert only.tickets(5) == 5


def test_of_a_short_text_the_starts_of_jobs_are_most_of_a_lanes_work():
    study = load_study("paper")
    known, short, long = lanes(study), lanes(study, 10**6), lanes(study, 10**15)
    assert [lane.runs for lane in known] == [lane.runs for lane in short] == [lane.runs for lane in long]
    assert sum(lane.share for lane in short) == pytest.approx(1.0)
    assert short[-1].share > 0.02 > 1e-3 * 5 > known[-1].share  # of 30 lanes; 1x64 has least work
    assert [lane.share for lane in long] == pytest.approx([lane.share for lane in known])
    six = [{"depth": 2, "width": width, "epochs": 1, "decay": "d", "checkpoints": 0} for width in (64, 256, 768)]
    study = load_study("demo", {"grid": six})
    assert [lane.tickets(3) for lane in lanes(study)] == [2, 1, 1]
    assert [lane.tickets(3) for lane in lanes(study, 10**6)] == [1, 1, 1]
    assert [lane.tickets(3) for lane in lanes(study, 10**10)] == [2, 1, 1]  # half an hour is worth another start


def test_pretrained_models_have_lanes_of_their_own():
    study = load_study("demo", {"pretrained": {"a": "some/model", "b": "some/other"}})
    found = [lane for lane in lanes(study) if lane.name.startswith("pretrained")]
    assert [(lane.name, lane.runs) for lane in found] == [("pretrained", ("a",)), ("pretrained_1", ("b",))]
    only = load_study("demo", {"pretrained": {"a": "some/model"}, "grid": []})
    assert [lane.share for lane in lanes(only)] == [1.0]
