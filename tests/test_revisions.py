"""Revisions of a model on the hub: each is downloaded when its turn comes, once, and deleted again if asked.

A small server of this test stands for the hub (`HF_ENDPOINT`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import without_waits
from transformers import LlamaConfig, LlamaForCausalLM

from lcutils.corpus.tokenization import train_bpe

NAME = "someone/tiny"
TALES = [
    f"Once upon a time {who} liked to {what}. Then all were happy." for who in "abcdef" for what in ("sing", "run")
]
REVISIONS = ("step1000", "step2000", "main")


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for seed, revision in enumerate(REVISIONS):
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=280, max_position_embeddings=32, bos_token_id=0, eos_token_id=0, **sizes)
        LlamaForCausalLM(config).save_pretrained(folder / revision)
        train_bpe([TALES], 280).save_pretrained(folder / revision)
    return folder


@pytest.fixture
def hub(checkpoints):
    """The address of a hub that has one model, and how often each of its files was sent."""
    sent: Counter[str] = Counter()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, with_body: bool) -> None:
            match = re.fullmatch(rf"/{NAME}/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
            revision = next((r for r in REVISIONS if match and match[1] in (r, commit(r))), None)
            if self.path.startswith("/api/"):
                self.reply_api(with_body)
                return
            path = checkpoints / str(revision) / (match[2] if match else "")
            if revision is None or not path.is_file():
                code = "EntryNotFound" if revision else "RevisionNotFound"
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                if revision:
                    self.send_header("X-Repo-Commit", commit(revision))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = path.read_bytes()
            if with_body:
                sent[f"{revision}/{path.name}"] += 1
            self.send_response(200)
            self.send_header("X-Repo-Commit", commit(revision))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def reply_api(self, with_body: bool) -> None:
            """What the hub says of the model, or of one of its revisions."""
            match = re.fullmatch(rf"/api/models/{NAME}(?:/revision/([^/?]+))?(/tree/.*)?", self.path.partition("?")[0])
            revision = next((r for r in REVISIONS if match and (match[1] or "main") in (r, commit(r))), None)
            files = [{"rfilename": p.name} for p in (checkpoints / revision).iterdir()] if revision else []
            body = json.dumps({"id": NAME, "sha": commit(revision or ""), "siblings": files, "tags": []}).encode()
            self.send_response(200 if revision else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()


# Without pictures, which take most of such a command's time.
UNDRAWN = """
import sys
from lcutils.__main__ import main
from lcutils.report import pictures
pictures.draw_all = lambda specs, *_: dict.fromkeys(specs, ("<svg/>", b""))
sys.exit(main(sys.argv[1:]))
"""
KILLED = """
import os, sys
from lcutils import extracting
from lcutils.__main__ import main
extracting.check_fit = lambda *_: os._exit(9)  # the weights are there, the extraction has not begun
sys.exit(main(sys.argv[1:]))
"""


def measure(
    tmp_path: Path, address: str, *words: str, code: str = UNDRAWN, drop: str = "true"
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(TALES * 20))
    command = [sys.executable, "-c", code, "measure", NAME, "--text", str(tmp_path / "text.txt")]
    command += ["--outputs", str(tmp_path), "--name", "tiny", *words]
    command += ["--set", "device=cpu", "threads=1", "block_size=32", "permutations=20", f"drop_checkpoints={drop}"]
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment)
    outcome.stderr = without_waits(outcome.stderr)
    return outcome


def test_revisions_are_downloaded_once_measured_and_deleted(hub, tmp_path):
    address, sent = hub
    outcome = measure(tmp_path, address, "--revision", "step{1000..2000..1000}")
    assert outcome.returncode == 0, outcome.stderr
    results = pd.read_csv(tmp_path / "tiny" / "results.csv")
    assert results["revision"].tolist() == ["step1000", "step2000"]
    assert results["steps"].tolist() == [1000, 2000]
    assert results["checkpoint"].tolist() == [0, 1]
    assert results["nc1_cdnv"].nunique() == 2
    for k, revision in enumerate(results["revision"]):
        manifest = json.loads((tmp_path / "tiny" / "statistics" / f"tiny@{k}" / "manifest.json").read_text())
        assert manifest["model_commit"] == commit(revision)
        assert sent[f"{revision}/model.safetensors"] == 1
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert sent["main/model.safetensors"] == 0
    # With one more revision, only that one is downloaded.
    outcome = measure(tmp_path, address, "--revision", "step1000", "step2000", "main")
    assert outcome.returncode == 0, outcome.stderr
    assert pd.read_csv(tmp_path / "tiny" / "results.csv")["revision"].tolist() == ["step1000", "step2000", "main"]
    assert {name: n for name, n in sent.items() if name.endswith("safetensors")} == {
        f"{revision}/model.safetensors": 1 for revision in REVISIONS
    }


@pytest.mark.parametrize("own", [True, False])
def test_what_a_killed_extraction_has_downloaded_is_deleted_by_the_one_that_goes_on(hub, tmp_path, own):
    address, sent = hub
    if not own:  # the weights were there before the study
        assert measure(tmp_path, address, "--revision", "main", drop="false").returncode == 0
        shutil.rmtree(tmp_path / "tiny")
    killed = measure(tmp_path, address, "--revision", "main", code=KILLED)
    assert killed.returncode == 9, killed.stderr
    assert list((tmp_path / "cache").rglob("model.safetensors"))
    outcome = measure(tmp_path, address, "--revision", "main")
    assert outcome.returncode == 0, outcome.stderr
    assert sent["main/model.safetensors"] == 1
    assert bool(list((tmp_path / "cache").rglob("model.safetensors"))) == (not own)
    assert not list((tmp_path / "tiny" / "statistics").glob("*.downloaded"))


def test_a_revision_that_is_not_there_is_one_line(hub, tmp_path):
    address, _ = hub
    outcome = measure(tmp_path, address, "--revision", "step9")
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert "step9" in outcome.stderr
    outcome = measure(tmp_path, address, "--revision", "step1000", "step9")
    assert outcome.returncode == 1
    assert "tiny@1 failed" in outcome.stderr.splitlines()[-1]
    assert pd.read_csv(tmp_path / "tiny" / "results.csv")["revision"].tolist() == ["step1000"]
