"""Random studies: those that work with a few changes in keys, values, structure or bytes."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from lcutils.errors import UserError
from lcutils.parameters import ROOT, load_study

VALID = [yaml.safe_load((ROOT / "parameters" / f"{name}.yaml").read_text()) for name in ("demo", "sample", "paper")]
VALID.append({"corpus": {"tokenizer": "a/b"}, "pretrained": {"one": "a/b", "two": {"source": "c", "revision": "d"}}})
SCALARS = [
    *("null", "~", "no", "yes", "on", "true", "False", "NA", "010", "0x1F", "0o17", "1_000", "1e5", "5e-5", "1:30"),
    *("2024-01-01", "2024-13-01", ".inf", "-.inf", ".nan", "nan", "inf", "1e400", "9" * 30, "9" * 6000),
    *("-1", "0", "-0.0"),
    *("!!python/name:os.system x", "!!binary aGk=", "!!str 5", "&a [*a]", "&a x", "*a", "<<"),
    *("? x", "| x", "> x", "%x"),
    *("'", '"', "[", "]", "{", "}", "[]", "{}", "[[1]]", "{a: {b: c}}", "- 1", "#", " # x", "a: b"),
    *("\t", "\\", '"\\0"'),
    *('"\\ud83d"', '"\\UFFFFFFFF"', "é", "😀", "\u202e", "\x85", "~/x", "~nobody/x", "/", "..", ".", "a" * 300, "١٢"),
]  # fmt: skip
TEXTS = [  # lines
    "",
    "---\n",
    "...\n",
    "%YAML 9.9\n---\n",
    "--- \n---\n",
    "\ufeff",
    "\0",
    "\t",
    "\r",
    "\r\n",
    "<<: {a: 1}\n",
    "? [a]\n: b\n",
]
NAMES = ["study", "a b", "007", "no", "é", "😀", "a'b", "{x}", "x # y", "a: b"]


def mapping(random: Random, value: Any) -> Any:
    """The value with one change somewhere."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(list(value))
        change = random.random()
        if change < 0.1:
            del value[key]
        elif change < 0.2:
            value[random.choice([str(key) + "x", key[:-1], "corpus", "grid", "name", "", "a\nb", "5"])] = value[key]
        else:
            value[key] = mapping(random, value[key])
        return value
    if isinstance(value, list) and value and random.random() < 0.7:
        place = random.randrange(len(value))
        value[place] = mapping(random, value[place])
        return value
    return random.choice(
        [None, True, 0, 1, -1, 2**40, 2**70, 0.5, 1e300, "x", [], {}, [value] * 3, {"a": value}, [[value]]]
    )


def write(random: Random, study: Any) -> bytes:
    """The study as YAML or JSON, with changes of the text and bytes."""
    if random.random() < 0.2:
        text = json.dumps(study)
    else:
        text = yaml.safe_dump(study, default_flow_style=random.choice([None, False, True]), sort_keys=False)
    for _ in range(random.choice([0, 0, 1, 2])):
        lines = text.splitlines(keepends=True) or [""]
        place = random.randrange(len(lines))
        change = random.random()
        if change < 0.4 and ":" in lines[place]:
            lines[place] = f"{lines[place].split(':')[0]}: {random.choice(SCALARS)}\n"
        elif change < 0.55:
            lines.insert(place, lines[random.randrange(len(lines))])
        elif change < 0.7:
            lines.insert(place, random.choice(TEXTS))
        elif change < 0.75:
            lines[place] = "[" * random.randrange(3000) + "\n"
        elif change < 0.8:
            lines.append("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]\n" for i in range(9)))
        else:
            cut = random.randrange(len(lines[place]) + 1)
            lines[place] = lines[place][:cut] + random.choice("ab:\n -[]{}#&*!|>'\"%@`0\x07") + lines[place][cut:]
        text = "".join(lines)
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(random.choice([0, 0, 0, 1, 5])):
        place = random.randrange(len(data) + 1)
        data = data[:place] + bytes([random.randrange(256)]) + data[place + random.randrange(2) :]
    return data.decode("utf-8", "ignore").encode("utf-16") if random.random() < 0.02 else data


def checked(error: UserError) -> str:
    """The end of a refused input: its message is one printable line."""
    message = str(error)
    assert message.isprintable(), message
    assert len(message) < 500, message
    return "one line"


def attempt(random: Random, folder: Path) -> str:
    """Load a changed study, and list its runs and points."""
    study = copy.deepcopy(random.choice(VALID))
    for _ in range(random.choice([0, 1, 1, 2])):
        study = mapping(random, study)
    path = folder / f"{random.choice(NAMES)}.yaml"
    path.write_bytes(write(random, study))
    try:
        points = load_study(path).points
    except UserError as error:
        return checked(error)
    assert points
    return "read"
