"""What a row carries of its text, training and extraction: it stays current where these are gone.

Whoever measures writes the manifests of what the row was made from into the row's own (`made_from`). Where the row is
then brought to another machine (`lcutils import`), it is marked as `kept`: it is compared with the study and the text
by what it carries, and what it was made from is not made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lcutils.corpus.sources import BUILT_IN
from lcutils.corpus.tokenization import bpe_size
from lcutils.manifests import read_manifest
from lcutils.pipeline.job import Job, another_value

MADE_FROM, KEPT = "made_from", "kept"  # in the manifest of a row
# The values that say where a stage's inputs from outside lie, and which digest says what they are.
PLACES = {
    "data": {"source": "text", "validation": "text", "ood": "text", "tokenizer": "tokenizer"},
    "extract": {"source": "model"},
}


def made_from(row: Job) -> dict[str, dict[str, Any]]:
    """The manifests of what a row is made from now, by stage, without their lists of files; empty if one is missing."""
    manifests = {job.stage: read_manifest(job.folder) for job in _before(row)}
    if None in manifests.values():
        return {}
    return {
        stage: {key: value for key, value in (manifest or {}).items() if key != "files"}
        for stage, manifest in manifests.items()
    }


def as_kept(row: Job) -> Job:
    """The job of a row. One that came from elsewhere needs no input, if it is current by what it carries."""
    manifest = read_manifest(row.folder) or {}
    if not manifest.get(KEPT):
        return row
    differs = another_input(row) or next(
        (why for values in values_behind(row) if (why := another_value(*values))), None
    )
    kept = replace(row, inputs=manifest["inputs"], upstream=(), kept=True)
    return kept if differs is None and kept.current else replace(row, differs=differs)


def another_input(row: Job) -> str | None:
    """Why a row that came from elsewhere is of another text, tokenizer or model; None if it is not, as far as known."""
    for job, manifest in _carried(row):
        then, now = _digests(job, manifest)
        for name, was in then.items():
            found = now.get(name)
            if was and found and was != found:
                return f"was made from another {name} (sha256 {was[:12]}; what the study names now has {found[:12]})"
    return None


def values_behind(row: Job) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """For each stage behind a row that came from elsewhere: the values that it was made with, and those of now.

    Where an input lies is no difference, if a digest says what it is; nor which other checkpoints of a run are kept.
    """
    for job, manifest in _carried(row):
        then, now = manifest["parameters"], dict(job.parameters)
        was, found = _digests(job, manifest)
        for key, name in PLACES.get(job.stage, {}).items():
            if _is_place(then.get(key)) and _is_place(now.get(key)) and (was.get(name) or found.get(name)):
                now[key] = then[key]
        if job.stage == "train":
            now["checkpoints"] = then["checkpoints"]
        yield then, now


def carries_origin(row: Job) -> bool:
    """True if a row carries what it was made from; those from before there was such a thing do not."""
    return bool((read_manifest(row.folder) or {}).get(MADE_FROM))


def another_recipe(row: Job, usual: Job) -> str | None:
    """The first value, by its key's name, that a row would be made with and the usual row of its point would not.

    For points that are kept without saying what they were made with. Where an input lies is no difference.
    """
    for job, other in zip(_before(row), _before(usual), strict=True):
        now, then = job.parameters, other.parameters
        for key in sorted(then.keys() | now.keys()):
            both_places = key in PLACES.get(job.stage, {}) and _is_place(then.get(key)) and _is_place(now.get(key))
            if then.get(key) != now.get(key) and not both_places:
                return key
    return None


def trained_on(row: Job) -> dict[str, str | None]:
    """Where a row's model was trained, or else extracted or measured, as far as known: `done, device, torch`."""
    manifest = read_manifest(row.folder) or {}
    carried = manifest.get(MADE_FROM, {})
    known, done = manifest, "measured"
    for stage, word in (("extract", "extracted"), ("train", "trained")):
        if stage in carried:
            known, done = carried[stage], word
    return {"done": done, "device": known.get("device"), "torch": known.get("versions", {}).get("torch")}


def _before(row: Job) -> Iterator[Job]:
    """The jobs that a row comes from, the last first: extraction, training, data."""
    while row.upstream:
        row = row.upstream[0]
        yield row


def _carried(row: Job) -> Iterator[tuple[Job, dict[str, Any]]]:
    """The jobs that a row comes from, the first first, each with the manifest that the row carries of it."""
    carried = (read_manifest(row.folder) or {}).get(MADE_FROM, {})
    for job in reversed([*_before(row)]):
        if job.stage in carried:
            yield job, carried[job.stage]


def _digests(job: Job, manifest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Digests of a job's inputs from outside, then and now; None where there is none, or the input is missing."""
    if "digests" in manifest:
        return manifest["digests"], job.digests
    if job.stage == "data":  # from before the two were told apart
        both = manifest["inputs"]["text"], job.inputs["text"]
        was, found = ({"text": digest, "tokenizer": digest} for digest in both)
        return was, found
    return {}, {}


def _is_place(value: object) -> bool:
    """True for a path or a name on the hub, of something that has a digest."""
    return isinstance(value, str) and value != BUILT_IN and bpe_size(value) is None
