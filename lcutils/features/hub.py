"""Models in the hub's cache: whether one is there already, and deleting what a study has downloaded."""

from __future__ import annotations

import json
from pathlib import Path

from lcutils.features.model_folder import WEIGHTS


def is_cached(name: str, revision: str | None) -> bool:
    """Whether all weights of a model on the hub are in the cache, so that loading it downloads none."""
    from huggingface_hub import try_to_load_from_cache

    for file in WEIGHTS:
        path = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(path, str):
            shards = set(json.loads(Path(path).read_text())["weight_map"].values()) if path.endswith(".json") else ()
            found = (try_to_load_from_cache(name, shard, revision=revision) for shard in shards)
            return all(isinstance(shard, str) for shard in found)
    return False


def forget(name: str, commit: str) -> None:
    """Delete one revision of a model from the cache, but for files that other revisions share."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return
    held = {revision.commit_hash for repository in cache.repos if repository.repo_id == name
            for revision in repository.revisions}  # fmt: skip
    if commit in held:
        cache.delete_revisions(commit).execute()
