"""Which files of a folder are text for training, validation or tests: the rules of `datasets`, for any file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.corpus.paths import is_file, reason, shown_list
from lcutils.errors import UserError, first_line
from lcutils.text import one_line

if TYPE_CHECKING:
    from datasets.utils.metadata import MetadataConfigs


def canonical_split(name: str) -> str:
    """ "validation" for "valid", "val" and "dev"; likewise for train and test; other names as they are."""
    from datasets.data_files import SPLIT_KEYWORDS

    return next((str(split) for split, words in SPLIT_KEYWORDS.items() if name.lower() in words), name)


def divide_by_name(names: list[str]) -> dict[str, list[str]]:
    """Divide files by their names and those of their folders.

    As in `datasets`, the first rule that any file fits divides the files: shards `data/train-00000-of-00002.…`, then
    names of folders, then names of files, and else all are for training. Beyond it, capital letters do not matter, no
    file is in two splits (test before validation before train), and where no file is for training by a rule, the next
    rule divides the rest.
    """
    from datasets import data_files

    words = data_files.SPLIT_KEYWORDS.items()
    shards = {split: [data_files.SPLIT_PATTERN_SHARDED.format(split=word) for word in some] for split, some in words}
    rules = (
        shards,
        data_files.DEFAULT_PATTERNS_SPLIT_IN_DIR_NAME,
        data_files.DEFAULT_PATTERNS_SPLIT_IN_FILENAME,
        data_files.DEFAULT_PATTERNS_ALL,
    )
    splits: dict[str, list[str]] = {}
    rest = names
    for rule in rules:
        lower = {name: name.lower() for name in rest}
        found = {str(split): _matching(lower, patterns) for split, patterns in rule.items()}
        taken: set[str] = set()
        for split in ("test", "validation", "train"):
            members = [name for name in found.get(split, []) if name not in taken]
            taken.update(members)
            if members:
                splits.setdefault(split, []).extend(members)
        rest = [name for name in rest if name not in taken]
        if "train" in splits:
            break
    return splits


def divide_by_card(folder: Path, names: list[str]) -> dict[str, list[str]] | None:
    """Divide files as the folder's README.md says, as those on the hub do; None if it says nothing."""
    from datasets.data_files import sanitize_patterns

    card = folder / "README.md"
    configs = _configurations(card) if is_file(card) else None
    if not configs:
        return None
    try:
        chosen = configs.get_default_config_name()
        if chosen is None:
            raise UserError(
                f"{one_line(card)}: names several configurations ({shown_list(configs)}), none of them the default; "
                "name a file or a folder inside"
            )
        patterns = configs[chosen].get("data_files")
        if patterns is None:
            return None
        lower = {name: name for name in names}
        divided: dict[str, list[str]] = {}
        for split, some in sanitize_patterns(patterns).items():
            divided.setdefault(canonical_split(split), []).extend(_matching(lower, some))
        if not any(divided.values()):
            raise UserError(f"{one_line(card)}: no file fits the data_files of its configs; correct them")
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{one_line(card)}: its configs cannot be used ({first_line(error)}); correct them") from None
    held_out: set[str] = set()
    for split in sorted(divided, key=lambda split: split == "train"):  # train last: it gets no text that is held out
        divided[split] = [name for name in divided[split] if name not in held_out]
        held_out.update(divided[split])
    return {split: members for split, members in divided.items() if members}


def _configurations(card: Path) -> MetadataConfigs | None:
    """The configurations that a dataset card names; None if it names none."""
    import yaml
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        text = card.read_text(encoding="utf-8", errors="replace")
        if not re.match(r"\s*---[\r\n]", text) or not re.search(r"^configs:", text, re.MULTILINE):
            return None
        return MetadataConfigs.from_dataset_card_data(DatasetCard(text, ignore_metadata_errors=False).data)
    except (yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{one_line(card)}: its configs cannot be read ({reason(error)}); correct them") from None


def _matching(names: dict[str, str], patterns: Iterable[Any]) -> list[str]:
    """Keys whose value fits one of the patterns, in the order of the patterns, as `datasets` finds files."""
    from fsspec.utils import glob_translate

    found: dict[str, None] = {}
    for pattern in patterns:
        fits = re.compile(glob_translate(f"/{str(pattern).removeprefix('./')}")).match
        found |= {name: None for name, text in names.items() if fits(f"/{text}")}
    return list(found)
