"""The file of finished points: what is exported, what is imported, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from typing import Any

import pytest
from kept_samples import LARGE, POINTS, SMALL, change_manifests, contents, measured_here, opened, rewrite

from lcutils.analysis import rows
from lcutils.artifacts import MANIFEST, sealed
from lcutils.errors import UserError
from lcutils.manifests import read_manifest
from lcutils.pipeline import kept
from lcutils.pipeline.jobs import all_jobs, check_overrides, measure_job, spared
from lcutils.pipeline.kept import ARCHIVE, export_points, import_points
from lcutils.pipeline.states import describe_states
from lcutils.stages import measure_point


def test_a_table_of_tokens_that_was_left_out_is_said(swept, away):
    work = opened(away)
    import_points(work, away / "export")
    assert len(measure_point(work, LARGE, 1).tokens) > 100
    with pytest.raises(UserError, match=f"{SMALL}@0: its table of tokens was not kept"):
        measure_point(work, SMALL, 0)
    assert rows.TOKENS == kept.TOKENS
    with pytest.raises(UserError, match=f"{SMALL}@0 has no table of tokens here"):
        export_points(work, away / "new", [f"{SMALL}@0"])
    with pytest.raises(UserError, match="none@0 is no finished point"):
        export_points(work, away / "new", ["none@0"])
    assert "tables of tokens of none," in export_points(work, away / "new", [])
    said = export_points(opened(swept), away / "all", POINTS)
    assert f"tables of tokens of {', '.join(POINTS)}" in said


def test_the_table_of_tokens_is_of_the_largest_model_trained_longest():
    """Whatever else is there, and in whatever order."""

    def row(n_params: int, epochs: int | None, checkpoint: int, weight_decay: float | None) -> dict[str, Any]:
        return {"n_params": n_params, "epochs": epochs, "checkpoint": checkpoint, "weight_decay": weight_decay}

    best_last = {
        "pretrained@0": row(7, None, 0, None),
        "small_10d@9": row(8, 10, 9, 5e-4),
        "large_01d@0": row(9, 1, 0, 5e-4),
        "large_10d@5": row(9, 10, 5, 5e-4),
        "large_10L@9": row(9, 10, 9, 0.1),
        "large_10d@9": row(9, 10, 9, 5e-4),
    }
    points = list(best_last)
    for number in range(1, len(points) + 1):
        for order in itertools.permutations(points[:number]):
            assert kept.longest_trained({point: best_last[point] for point in order}) == points[number - 1]


def test_tables_of_tokens_that_were_kept_before_stay(swept, away):
    """Those that came with an import go into any archive; those of an archive that is written again stay in it."""
    several = [f"{LARGE}@0", f"{SMALL}@1"]
    export_points(opened(swept), away / "several", several)
    import_points(opened(away), away / "several")
    said = export_points(opened(away), away / "again")
    assert f"tables of tokens of {', '.join(sorted(several))}," in said
    assert (away / "again" / ARCHIVE).read_bytes() == (away / "several" / ARCHIVE).read_bytes()
    said = export_points(opened(swept), away / "several")
    assert f"tables of tokens of {', '.join(sorted([*several, f'{LARGE}@1']))}," in said
    assert export_points(opened(swept), away / "new").count("@") == 1


def test_a_table_of_tokens_that_only_the_archive_holds_is_not_written_over(swept, away):
    """A point imported without its table, say, where another sitting exported it with one."""
    work, both = opened(away), [f"{LARGE}@1", f"{SMALL}@0"]
    import_points(work, away / "export")
    export_points(opened(swept), away / "several", both)
    before = contents(away / "several")
    words = rf"holds the table of tokens of {SMALL}@0, which is not in .*; import it first, or name the tables to keep"
    with pytest.raises(UserError, match=words):
        export_points(work, away / "several")
    assert contents(away / "several") == before
    said = import_points(work, away / "several").splitlines()[0]
    assert said == f"1 of 4 points are kept in {away}/tiny; the others were finished there and stay as they are"
    assert len(measure_point(work, SMALL, 0).tokens) > 100
    export_points(work, away / "several")
    assert contents(away / "several") == before
    shutil.rmtree(away / "tiny")
    import_points(work, away / "export")
    export_points(work, away / "several", [f"{LARGE}@1"])
    assert contents(away / "several") == contents(away / "export")


def test_a_finished_point_stays_as_it_is(swept, away):
    measured_here(swept, away)
    work, row = opened(away), away / f"tiny/measurements/{SMALL}@0"
    made = (row / MANIFEST).stat().st_mtime_ns
    shutil.rmtree(away / f"tiny/measurements/{LARGE}@0")
    said = import_points(work, away / "export" / ARCHIVE).splitlines()
    assert said[0] == f"1 of 4 points are kept in {away}/tiny; the others were finished there and stay as they are"
    assert (row / MANIFEST).stat().st_mtime_ns == made
    assert measure_job(work, LARGE, 0).kept
    assert not measure_job(work, SMALL, 0).kept
    assert spared(work) == {f"extract/{LARGE}@0"}


def test_points_that_are_nowhere_else_are_not_written_over(swept, away):
    work, archive = opened(away), away / "export" / ARCHIVE
    with pytest.raises(UserError, match="no point is finished; nothing is exported"):
        export_points(work, archive.parent)
    import_points(work, archive)
    shutil.rmtree(away / f"tiny/measurements/{SMALL}@1")
    with pytest.raises(UserError, match=rf"holds {SMALL}@1, not finished in .*; import it first"):
        export_points(work, archive.parent)
    assert archive.read_bytes() == (swept / "export" / ARCHIVE).read_bytes()


def test_what_is_wrong_with_an_archive_is_one_line(away, lcutils_here):
    archive, whole = away / "export" / ARCHIVE, contents(away / "export")
    first = f"measurements/{LARGE}@0"
    packed = archive.read_bytes()

    def refused(words: str) -> None:
        outcome = lcutils_here("import", away / "tiny.yaml", away / "export", "--outputs", away)
        assert outcome.returncode == 2, outcome.stdout
        assert words in outcome.stderr, outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1
        assert not (away / "tiny/measurements").exists()

    for damaged in (packed[:-200], packed[:2000] + b"x" + packed[2001:], b"", b"no archive"):
        archive.write_bytes(damaged)
        refused("is damaged (")
    rewrite(away, whole | {f"{first}/row.json": b"{}"})
    refused(f"{LARGE}@0: row.json is damaged or missing; restore the file")
    rewrite(away, {name: data for name, data in whole.items() if name != f"{first}/{MANIFEST}"})
    refused(f"{LARGE}@0: {MANIFEST} is damaged or missing")
    rewrite(away, whole | {f"{first}/../../../outside": b"x"})
    refused("is no file of a row")
    rewrite(away, whole | {name.replace(LARGE, "01x0064_02d"): data for name, data in whole.items()})
    refused("01x0064_02d@0 is no point of study tiny; name the study that it was exported from")
    rewrite(away, {name.replace("@0", "@1"): data for name, data in whole.items() if f"{LARGE}@0" in name})
    refused(f"{LARGE}@1: row.json says checkpoint = 0, the study says 1")
    rewrite(away, whole)
    (away / "text.txt").write_text("Another text.<|endoftext|>Of two stories.")
    refused(f"{SMALL}@0 was made from another text (sha256 ")
    (away / "text.txt").unlink()
    study = away / "tiny.yaml"
    study.write_text(study.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 1.0e-3"))
    refused(f"{SMALL}@0 was made with learning_rate = 0.003, the study says 0.001; name the study that")
    archive.unlink()
    refused("there is no such file; name an archive, or its folder")


def test_a_killed_import_leaves_whole_points_or_none(away, monkeypatch):
    work = opened(away)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept.shutil, "copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            import_points(work, away / "export")
    left = [path.name for path in (away / "tiny/measurements").iterdir()]
    assert not [name for name in left if not name.endswith(".lock")]
    assert not [job for job in all_jobs(work).values() if job.current]
    import_points(work, away / "export")
    assert [job.folder.name for job in all_jobs(work).values() if job.current] == POINTS


def test_rows_that_carry_nothing_are_kept_and_said_to(away, lcutils_here):
    """Rows from before manifests held what they are made from."""
    change_manifests(away, lambda manifest: manifest.pop("made_from"))
    outcome = lcutils_here("import", away / "tiny.yaml", away / "export", "--outputs", away)
    assert "where 4 of them come from is not known" in outcome.stdout
    assert describe_states(opened(away)).splitlines()[0] == "study tiny: 2 runs, 4 points: 4 kept"
    with pytest.raises(UserError, match="riesz_s"):
        check_overrides(opened(away, "riesz_s=2"))
    export_points(opened(away), away / "again")
    assert contents(away / "again").keys() == contents(away / "export").keys()
    assert "made_from" not in json.loads(contents(away / "again")[f"measurements/{SMALL}@0/{MANIFEST}"])


def test_rows_measured_before_they_carried_anything_get_it_when_exported(swept, away):
    measured_here(swept, away)
    for path in (away / "tiny/measurements").glob(f"*/{MANIFEST}"):
        manifest = read_manifest(path.parent) or {}
        path.write_text(json.dumps(sealed({key: value for key, value in manifest.items() if key != "made_from"})))
    export_points(opened(away), away / "again")
    for files in (contents(away / "export"), contents(away / "again")):
        carried = json.loads(files[f"measurements/{SMALL}@0/{MANIFEST}"])["made_from"]
        assert list(carried) == ["extract", "train", "data"]
        assert len(carried["data"]["digests"]["text"]) == 64
        assert carried["train"]["parameters"]["learning_rate"] == 3e-3
