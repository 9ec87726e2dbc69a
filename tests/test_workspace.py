"""Opening a study, and refusing what would throw computed work away."""

import time

import pytest

from lcutils.artifacts import write_manifest
from lcutils.errors import UserError
from lcutils.pipeline.paths import injected_parameters, open_study


def test_where_artifacts_lie(tiny):
    work = open_study(tiny, tiny.parent)
    assert work.folder == tiny.parent / "tiny"
    assert work.statistics("01x0016_01d", 0).name == "01x0016_01d@0"
    assert work.checkpoint_source("01x0016_01d", 0).endswith("runs/01x0016_01d/checkpoint-0")
    with pytest.raises(UserError, match="keeps 0, not 3"):
        work.point("01x0016_01d", 3)


def test_what_papermill_injected_is_found_and_what_a_person_defined_is_not(tiny):
    source = "# Parameters\nstudy = 'demo'\nlearning_rate = 0.5\n"
    namespace = {"In": ["", "x = 3", source], "x": 3, "learning_rate": 0.5, "study": "demo"}
    assert injected_parameters(namespace) == {"learning_rate": 0.5}
    assert open_study(tiny, tiny.parent, {}, namespace).study.training.learning_rate == 0.5
    with pytest.raises(UserError, match="did you mean learning_rate"):
        open_study(tiny, tiny.parent, {}, {"In": ["# Parameters\nlearning_rte = 1"], "learning_rte": 1})


def test_an_absent_input_names_the_notebook_that_makes_it(tiny):
    work = open_study(tiny, tiny.parent)
    with pytest.raises(UserError, match="run 01_data first"):
        work.needs_work(work.train_job("01x0016_01d"))


def test_an_override_that_clashes_with_computed_work_is_refused(tiny):
    plain = open_study(tiny, tiny.parent)
    run = plain.study.run("01x0016_01d")
    folder = plain.run_folder(run.name)
    folder.mkdir(parents=True)
    write_manifest(folder, plain.train_job(run.name), time.monotonic(), {})

    plain.check_overrides()
    open_study(tiny, tiny.parent, "learning_rate=0.003").check_overrides()  # the same value
    open_study(tiny, tiny.parent, "riesz_s=3").check_overrides()  # nothing was measured yet
    other = open_study(tiny, tiny.parent, "learning_rate=1")
    with pytest.raises(UserError, match=r"learning_rate = 0.003, the override says 1.0; name another outputs folder"):
        other.check_overrides()
    with pytest.raises(UserError, match="learning_rate"):
        other.refuse_clash(other.train_job(run.name))
    with pytest.raises(UserError, match="weight_decay = 0.0005"):
        open_study(tiny, tiny.parent, "decay='{d: 0.25}'").check_overrides()
    open_study(tiny, tiny.parent / "elsewhere", "learning_rate=1").check_overrides()


def test_a_changed_yaml_is_stale_not_refused(tiny):
    before = open_study(tiny, tiny.parent)
    before.data.mkdir(parents=True)
    write_manifest(before.data, before.data_job(), time.monotonic(), {})
    assert not before.needs_work(before.data_job())
    tiny.write_text(tiny.read_text().replace("max_stories: 60", "max_stories: 61"))
    after = open_study(tiny, tiny.parent)
    assert after.needs_work(after.data_job())
    with pytest.raises(UserError, match=r"data: was made with max_stories = 60, the study says 61; run 01_data first"):
        after.needs_work(after.train_job("01x0016_01d"))


def test_relative_paths_start_at_the_repository(tiny):
    work = open_study(tiny, tiny.parent, "source=README.md ood=no/such/file.txt")
    assert work.corpus.source.endswith("/README.md")
    assert work.study.corpus.source == "README.md"  # no machine's path gets into a manifest
    assert work.corpus.ood == "no/such/file.txt"
