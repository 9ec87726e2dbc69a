"""Opening a study, and refusing what would throw computed work away."""

import time

import pytest

from lcutils.errors import UserError
from lcutils.manifests import write_manifest
from lcutils.pipeline.clash import refuse_clash
from lcutils.pipeline.jobs import (
    analyze_job,
    check_overrides,
    data_job,
    extract_job,
    measure_job,
    needs_work,
    train_job,
)
from lcutils.pipeline.overrides import injected_parameters, open_study


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
        needs_work(work, train_job(work, "01x0016_01d"))


def test_an_override_that_clashes_with_computed_work_is_refused(tiny):
    plain = open_study(tiny, tiny.parent)
    run = plain.study.run("01x0016_01d")
    folder = plain.run_folder(run.name)
    folder.mkdir(parents=True)
    job = train_job(plain, run.name)
    write_manifest(folder, job.parameters, job.inputs, time.monotonic(), {})

    check_overrides(plain)
    check_overrides(open_study(tiny, tiny.parent, "learning_rate=0.003"))  # the same value
    check_overrides(open_study(tiny, tiny.parent, "riesz_s=3"))  # nothing was measured yet
    other = open_study(tiny, tiny.parent, "learning_rate=1")
    with pytest.raises(UserError, match=r"learning_rate = 0.003, the override says 1.0; name another outputs folder"):
        check_overrides(other)
    with pytest.raises(UserError, match="learning_rate"):
        refuse_clash(other, folder, train_job(other, run.name).parameters)
    with pytest.raises(UserError, match="weight_decay = 0.0005"):
        check_overrides(open_study(tiny, tiny.parent, "decay='{d: 0.25}'"))
    check_overrides(open_study(tiny, tiny.parent / "elsewhere", "learning_rate=1"))


def test_a_changed_yaml_is_stale_not_refused(tiny):
    before = open_study(tiny, tiny.parent)
    before.data.mkdir(parents=True)
    job = data_job(before)
    write_manifest(before.data, job.parameters, job.inputs, time.monotonic(), {})
    assert not needs_work(before, data_job(before))
    tiny.write_text(tiny.read_text().replace("max_stories: 60", "max_stories: 61"))
    after = open_study(tiny, tiny.parent)
    assert needs_work(after, data_job(after))
    with pytest.raises(UserError, match=r"data: was made with max_stories = 60, the study says 61; run 01_data first"):
        needs_work(after, train_job(after, "01x0016_01d"))


def test_relative_paths_start_at_the_repository(tiny):
    work = open_study(tiny, tiny.parent, "source=README.md ood=no/such/file.txt")
    assert work.corpus_of().source.endswith("/README.md")
    assert work.study.corpus.source == "README.md"  # no machine's path gets into a manifest
    assert work.corpus_of().ood == "no/such/file.txt"


def test_home_and_relative_paths_are_the_same_everywhere(tiny, monkeypatch):
    home = tiny.parent / "home"
    home.mkdir()
    (home / "text.txt").write_text("a story")
    monkeypatch.setenv("HOME", str(home))
    overrides = {"source": "~/text.txt", "ood": "~/missing.txt", "tokenizer": "~/x", "pretrained": {"a": "~/model"}}
    work = open_study(tiny, "~/runs", overrides)
    assert work.folder == home / "runs" / "tiny"
    assert work.corpus_of().source == f"{home}/text.txt"
    assert work.corpus_of().ood == f"{home}/missing.txt"
    assert work.checkpoint_source("a", 0) == f"{home}/model"
    assert work.published_table("~/text.txt") == home / "text.txt"
    monkeypatch.chdir(home)  # what lies only here is not found by some and missed by others
    for find in (
        lambda: open_study(tiny, "out", "source=text.txt").corpus_of(),
        lambda: work.published_table("text.txt"),
    ):
        with pytest.raises(
            UserError, match=f"at the repository's root, where relative paths start; write {home}/text.txt"
        ):
            find()


@pytest.mark.parametrize(
    "odd", [None, True, 1.5, [], {}, "", "a\0b", "\udcff", "x" * 300, "a/" * 3000, "~nobody-here/x"]
)
def test_an_odd_argument_is_one_line(tiny, odd):
    work = open_study(tiny, tiny.parent)
    for use in (
        lambda: open_study(odd, tiny.parent),
        lambda: open_study(tiny, odd),
        lambda: work.study.run(odd),
        lambda: work.point("01x0016_01d", odd),
        lambda: work.published_table(odd),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_numbers_that_papermill_made_of_names_are_text(tiny):
    work = open_study(tiny, 2024)
    assert work.folder.parent.name == "2024"
    assert work.point("01x0016_01d", "0") == ("01x0016_01d", 0)


def test_a_cell_with_a_magic_is_no_parameter_cell(tiny):
    assert injected_parameters({"In": ["# Parameters\n%matplotlib inline\nx = 1"]}) == {}


def test_a_job_reads_only_what_it_uses(tiny):
    cases = {
        "learning_rate=1": {"train"},
        "max_stories=5": {"data"},
        "min_count=2": {"extract", "measure"},
        "riesz_s=2": {"measure"},
        "permutations=10": {"analyze"},
        "device=cpu": set(),
        "title=other": set(),
        "deterministic=true": {"train"},
        "drop_checkpoints=true": set(),
        "decay={d: 0.0005, q: 1}": set(),  # a letter that this run does not use
    }

    def parameters(overrides):
        work, model = open_study(tiny, tiny.parent, overrides), "01x0016_01d"
        jobs = data_job(work), train_job(work, model), extract_job(work, model, 0), measure_job(work, model, 0)
        stages = ("data", "train", "extract", "measure", "analyze")
        return {stage: job.parameters for stage, job in zip(stages, [*jobs, analyze_job(work)], strict=True)}

    before = parameters([])
    for override, expected in cases.items():
        after = parameters([override])
        assert {stage for stage in before if before[stage] != after[stage]} == expected, override
