"""Extraction that processes of torchrun share: equal to one process's, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_statistics import draw

from lcutils.collapse.agreement import AgreementCounter
from lcutils.documents import Documents, share
from lcutils.errors import UserError
from lcutils.features import extraction
from lcutils.features.extraction import extract_agreement, extract_statistics
from lcutils.features.models import FeatureModel
from lcutils.pipeline.jobs import extract_job, resume_folder
from lcutils.stages import extract_point, measure_point, open_study, prepare_data, train_run

MODEL, SMALL = "01x0016_01d", "extraction.blocks_per_batch=1"
# Extracts a point. A rank may be killed once it has saved some states, one after each batch.
RANK = """
import os, signal, sys
from lcutils.features import extraction
from lcutils.stages import extract_point, open_study
study, outputs, dies = sys.argv[1:]
rank = os.environ["RANK"]
save, load, saved = extraction._State.save, extraction._State.load, []
if dies != "nobody":
    extraction.SECONDS_BETWEEN_STATES = 0.0
def watched(self, stats, done):
    save(self, stats, done)
    saved.append(done)
    if rank == dies and len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
def told(self, *words):
    found = load(self, *words)
    os.write(1, f"rank {rank} reads {self.name} {found[0]}\\n".encode())  # at once, beside the other rank
    return found
extraction._State.save, extraction._State.load = watched, told
extract_point(open_study(study, outputs, "extraction.blocks_per_batch=1"), "01x0016_01d", 0)
"""


@pytest.mark.parametrize(("number", "world"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_shares_are_all_blocks_in_order(number, world):
    shares = [share(np.zeros((number, 2)), rank, world) for rank in range(world)]
    assert [i for begin, end in shares for i in range(begin, end)] == list(range(number))
    sizes = [end - begin for begin, end in shares]
    assert max(sizes) - min(sizes) <= 1


def documents(number: int, seed: int = 0) -> Documents:
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 90, number)
    return Documents(random.integers(0, 30, lengths.sum()).astype(np.uint16), lengths, beginning=1, longest=90)


@pytest.mark.parametrize(("number", "world"), [(100, 3), (2, 4), (7, 1)])
def test_shares_of_documents_have_alike_many_tokens(number, world):
    rows = documents(number)
    shares = [share(rows, rank, world) for rank in range(world)]
    assert [i for begin, end in shares for i in range(begin, end)] == list(range(number))
    assert all(abs(rows.tokens_in(*each) - rows.size / world) <= 90 for each in shares)


def torchrun(script: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run([*command, *map(str, words)], env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("dies", [1, 0])
def test_two_processes_extract_what_one_does_though_one_is_killed(tiny, dies):
    points = []
    for name in ("alone", "shared"):
        work = open_study(tiny, tiny.parent / name, SMALL)
        data = prepare_data(work)
        train_run(work, MODEL)
        if name == "alone":
            extract_point(work, MODEL, 0)
        else:
            script = tiny.parent / "rank.py"
            script.write_text(RANK)
            resume = resume_folder(extract_job(work, MODEL, 0))
            killed = torchrun(script, tiny, tiny.parent / name, dies)
            assert killed.returncode != 0
            assert f"Signal {signal.SIGKILL.value}" in killed.stderr
            (state,) = resume.glob(f"statistics-rank{dies}of2-*.safetensors")
            done = int(state.stem.split("-")[2])
            assert done == 3 + dies * share(data.train, 1, 2)[0]
            again = torchrun(script, tiny, tiny.parent / name, "nobody")
            assert again.returncode == 0, again.stderr[-3000:]
            assert f"rank {dies} reads statistics-rank{dies}of2 {done}" in again.stdout  # it went on
            assert not resume.exists()
        points.append((extract_point(work, MODEL, 0), measure_point(work, MODEL, 0)))
    (one, row), (two, other) = points
    assert one.statistics.counts.tolist() == two.statistics.counts.tolist()
    for name in ("means", "variances", "covariance"):
        torch.testing.assert_close(getattr(two.statistics, name), getattr(one.statistics, name), rtol=1e-12, atol=1e-12)
    assert one.agreement.keys() == two.agreement.keys()
    for name, counts in one.agreement.items():
        assert np.array_equal(two.agreement[name], counts)
    assert (two.texts, two.record) == (one.texts, one.record)
    numbers = [{key: x for key, x in each.row.items() if isinstance(x, float | int)} for each in (row, other)]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-10, abs=1e-12, nan_ok=True)


def made_model(vocabulary: int = 30) -> FeatureModel:
    table = draw(vocabulary, 4, vocabulary)[0].float()
    return FeatureModel(lambda tokens: table[tokens.long()], table, "made")


@pytest.mark.parametrize("kind", ["stream", "documents"])
def test_the_first_process_merges_all_and_reports_a_state_that_was_lost(tmp_path, monkeypatch, kind):
    """Without torchrun, one rank after the other, the first one last."""
    model = made_model()
    blocks = np.random.default_rng(0).integers(0, 30, (7, 5)).astype(np.uint16) if kind == "stream" else documents(40)
    with pytest.raises(ValueError, match="several processes need a folder"):
        extract_statistics(model, blocks, batch_size=2, world=2)
    words = {"batch_size": 2, "resume": tmp_path / "resume", "world": 3}
    with pytest.raises(UserError, match=r"resume: statistics-rank1of3-\*.safetensors up to block \d+ is missing"):
        extract_statistics(model, blocks, rank=0, **words)
    for rank in (1, 2):
        extract_statistics(model, blocks, rank=rank, **words)
    shared = extract_statistics(model, blocks, rank=0, **words)
    alone = extract_statistics(model, blocks, batch_size=2)
    for name in ("counts", "means", "variances", "covariance"):
        torch.testing.assert_close(getattr(shared, name), getattr(alone, name), rtol=1e-12, atol=1e-13)
    keep, hits = alone.counts > 0, []
    for world in (1, 3):
        counter = AgreementCounter(model.classifier, alone.means, keep)
        for rank in range(world):
            extract_agreement(model, blocks, counter, batch_size=2, rank=rank, world=world)
        hits.append(torch.stack(counter.result()))
    assert torch.equal(*hits)
    assert hits[0][1].sum() == alone.counts.sum()
    # Another number of processes begins anew.
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_STATES", 0.0)
    extract_statistics(model, blocks, batch_size=2, resume=tmp_path / "resume")
    assert not list((tmp_path / "resume").glob("statistics-rank*"))
