"""Studies: what expands to what, and one clear line for every mistake."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lcutils import paper
from lcutils.errors import UserError
from lcutils.parameters import leaf_keys, load_study, parse_overrides, resolve_path
from lcutils.runs import PretrainedRun, RunName

SMALL = {
    "grid": [{"depth": 1, "width": 32, "epochs": 2, "checkpoints": [0, 1]}],
    "training": {"batch_size": 4},
}


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def message_of(path: Path | str, overrides: object = None) -> str:
    with pytest.raises(UserError) as caught:
        load_study(path, overrides)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_paper_is_170_runs_and_230_points():
    study = load_study("paper")
    assert (len(study.runs), len(study.points)) == (170, 230)
    expected = set()
    for depth in (1, 2, 4, 8, 12):
        for width in paper.WIDTHS:
            for rest in ("01d@0", "01L@0", "03d@2", "10d@5", "10d@9", "10L@5", "10L@9"):
                expected.add(f"{depth:02}x{width:04}_{rest}")
    expected |= {f"02x0768_01d{seed:02}@0" for seed in range(20)}
    assert {f"{run}@{checkpoint}" for run, checkpoint in study.points} == expected


def test_paper_seeds_and_batches_reach_the_runs():
    study = load_study("paper")
    assert study.trained_run("02x0768_01d").recipe.seed == 42
    assert study.trained_run("02x0768_01d07").recipe.seed == 7
    assert study.trained_run("02x0768_01d").recipe.weight_decay == 5e-4
    assert study.trained_run("12x1024_10L").recipe.weight_decay == 0.1
    assert study.trained_run("02x1024_10d").recipe.batch_size == 8
    assert study.trained_run("08x0256_10d").recipe.batch_size == 8
    assert study.trained_run("01x0064_01d").recipe.batch_size == 16
    assert len(paper.BATCH_SIZES) == 30
    assert study.run("10x0064_10d".replace("10x", "12x")).checkpoints == (5, 9)


@given(
    st.integers(1, 99),
    st.integers(1, 4000),
    st.integers(1, 99),
    st.sampled_from("dLn"),
    st.none() | st.integers(0, 99),
)
def test_run_names_read_back(depth, width, epochs, decay, seed):
    name = RunName(depth, width, epochs, decay, seed)
    assert RunName.parse(str(name)) == name


@pytest.mark.parametrize("name", ["2x64_1d", "02x0064", "02x0064_01", "02x0064_01dd", "002x0064_01d", "x", ""])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="run name|extra zeros"):
        RunName.parse(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corpsu": {}}, ["small.yaml", "corpsu: no such key", "corpus"]),
        ({"corpus": {"blok_size": 3}}, ["corpus.blok_size", "did you mean block_size"]),
        ({"corpus": {"block_size": "long"}}, ["corpus.block_size", "integer", "'long'"]),
        ({"corpus": {"packing": "tight"}}, ["corpus.packing", "'paper' or 'lossless'", "'tight'"]),
        ({"training": {"batch_size": 4, "learning_rate": -1}}, ["training.learning_rate", "greater than 0"]),
        ({"training": {}}, ["training.batch_size", "1x32", "give a number"]),
        ({"grid": []}, ["grid", "is empty"]),
        (
            {"grid": [{"depth": 1, "width": 40, "epochs": 1, "checkpoints": 0}]},
            ["grid[0].width", "40", "16 heads", "multiple"],
        ),
        (
            {"grid": [{"depth": 1, "width": 32, "epochs": 1, "checkpoints": 1}]},
            ["grid[0].checkpoints", "count from 0"],
        ),
        (
            {"grid": [{"depth": 1, "width": 32, "epochs": 1, "checkpoints": 0, "decay": "q"}]},
            ["grid[0].decay", "'q'", "declare"],
        ),
        (
            {"grid": [{"depth": 1, "widht": 32, "epochs": 1, "checkpoints": 0}]},
            ["grid[0].widht", "did you mean width"],
        ),
        ({"grid": [{"depth": 1, "width": 32, "checkpoints": 0}]}, ["grid[0].epochs", "is missing"]),
        ({"corpus": {"block_size": 4096}}, ["corpus.block_size", "4096", "positions"]),
        ({"pretrained": {"a b": "x"}}, ["pretrained.a b", "letters"]),
        ({"corpus": {"layout": "documents"}}, ["corpus.layout", "trained on a stream", "under each model"]),
        ({"corpus": {"chat_template": True}, "pretrained": {"a": "x"}}, ["corpus.chat_template", "layout: documents"]),
        ({"corpus": {"chat_template": True}}, ["corpus.chat_template", "of pretrained models"]),
        (
            {"pretrained": {"a": {"source": "x", "revision": "y", "revisions": ["z"]}}},
            ["pretrained.a", "both revision and revisions"],
        ),
        ({"pretrained": {"a": {"source": "x", "revisions": "step{5..1}"}}}, ["pretrained.a.revisions", "from 5 to 1"]),
        ({"pretrained": {"a": {"source": "x", "revisions": "step{5"}}}, ["pretrained.a.revisions", "braces"]),
        ({"pretrained": {"a": {"source": "x", "revisions": ["y", "y"]}}}, ["pretrained.a.revisions", "named twice"]),
        ({"pretrained": {"a": {"source": "x", "tokens_per_step": 5}}}, ["pretrained.a.tokens_per_step", "revisions"]),
        ({"pretrained": {"a": {"source": "x", "base": "b"}}}, ["pretrained.a.base", "'b'", "no other model"]),
        ({"pretrained": {"a": {"source": "x", "tokenizer": "bpe:300"}}}, ["pretrained.a.tokenizer", "trained anew"]),
        ({"name": "other"}, ["name", "delete the key"]),
        ({"pretrained": {"a": [5]}}, ["pretrained.a: should hold keys and values, not ['5']"]),
        ({"pretrained": {"..": "x"}}, ["pretrained...", "begin with a letter"]),
        ({"pretrained": {"01x0032_02d": "x"}}, ["pretrained.01x0032_02d", "also a run of the grid", "another name"]),
        ({"training": {"batch_size": 4, "decay": {"d": 0.0, "dd": 0.1}}}, ["training.decay.dd", "not one letter"]),
        ({"grid": [SMALL["grid"][0] | {"checkpoints": []}]}, ["grid[0].checkpoints", "is empty", "at least one"]),
        ({"grid": [SMALL["grid"][0] | {"depth": []}]}, ["grid[0].depth", "is empty"]),
        ({5: 1}, ["5: no such key"]),
        ({"corpus": {5: 1}}, ["corpus.5: no such key"]),
        ({"training": {"batch_size": 4, "learning_rate": float("inf")}}, ["training.learning_rate", "not '.inf'"]),
        ({"training": {"batch_size": 4, "eps": 10**400}}, ["training.eps", "finite number"]),
        ({"corpus": {"block_size": 2**40}}, ["corpus.block_size", "less than"]),
        (
            {"grid": [SMALL["grid"][0] | {"depth": list(range(1, 2000)), "seed": list(range(99))}]},
            ["more than 100,000"],
        ),
        ({"corpus": {"tokenizer": "x"}, "pretrained": {"a" * 151: "x"}}, ["pretrained.aaa", "150 bytes"]),
        (
            {"corpus": {"tokenizer": "x"}, "pretrained": {"Neo": "x", "neo": "y"}},
            ["pretrained.neo", "differs from Neo"],
        ),
        ({"measurement": {"min_count": 0}}, ["measurement.min_count", "greater than or equal to 1"]),
    ],
)
def test_a_mistake_is_one_line_that_names_key_and_fix(tmp_path, change, words):
    message = message_of(write(tmp_path, SMALL | change))
    for word in words:
        assert word in message


def test_no_file_no_yaml_no_mapping(tmp_path):
    message = message_of("nowhere")
    assert "parameters/nowhere.yaml" in message
    assert "demo" in message
    assert "not valid YAML" in message_of(write(tmp_path, "grid: [1"))
    path = write(tmp_path, SMALL)
    path.write_bytes("title: café\n".encode("latin-1"))
    assert "not valid YAML: unacceptable character" in message_of(path)
    assert "should hold keys" in message_of(write(tmp_path, "- 1"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: a\ngrid: []\ntitle: b\n", "the key title stands in line 1 and again in line 3"),
        ("corpus: {seed: 1, source: x, seed: 2}\n", "the key seed stands in line 1"),
        ("title: !!python/name:os.system x\n", "line 1: the tag tag:yaml.org,2002:python/name:os.system is not read"),
        ("title: !!binary aGk=\n", "binary is not read"),
        ("title: a\n---\ntitle: b\n", "line 2: a second document"),
        ("a: &a [*a]\n", "there is no whole value *a"),
        ("a: &a [1]\n? *a\n: 1\n", "a key should be text"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "line 2: merging (<<) is not read"),
        ("title:\ta\n", "line 1: found character"),
        ("title: a\0b\n", "special characters are not allowed"),
        ('title: "\\ud83d"\n', "half a character"),
        ('title: "\\0"\n', "NUL"),
        ("[" * 5000, "nested more than 20 deep"),
        ("x" * 300_000, "longer than 200,000 bytes"),
        (
            "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]\n" for i in range(12)),
            "more than 20,000",
        ),
        (f"{'a' * 900}: 1\n{'b' * 900}: 1\n", "no such key"),
        ("".join(f"key{i}: 1\n" for i in range(999)), "more"),
        ('"a\\nb": 1\ngrid: [1]\n', "a⏎b: no such key"),
    ],
)
def test_a_text_that_is_not_plain_is_one_short_line(tmp_path, text, words):
    message = message_of(write(tmp_path, text))
    assert words in message
    assert "small.yaml: " in message
    assert message.isprintable()
    assert len(message) < 500


def test_scalars_are_the_text_written_until_the_schema_says_otherwise(tmp_path):
    for text in ("010", "no", "on", "2024-01-01", "1:30", "1e5", "1_000", "0x1F", "NA", ".inf", "true"):
        study = load_study(write(tmp_path, yaml.safe_dump(SMALL) + f"title: {text}\nanalysis: {{names: [{text}]}}\n"))
        assert (study.title, study.analysis.names) == (text, (text,))
        assert load_study(tmp_path / "small.yaml", f"title={text}").title == text
    numbers = "{learning_rate: 5e-5, eps: 1e-3, batch_size: 8, deterministic: true}"
    grid = "grid: [{depth: 1, width: 32, epochs: 1, checkpoints: 0, seed: [null, 7]}]"
    study = load_study(write(tmp_path, f"\ufefftraining: {numbers}\r\n{grid}\r\n"))
    assert (study.training.learning_rate, study.training.eps, study.training.batch_size) == (5e-5, 1e-3, 8)
    assert study.training.deterministic is True
    assert list(study.runs) == ["01x0032_01d", "01x0032_01d07"]
    names = ["NA", "125", "1e5", "007", "no", "null"]
    text = "corpus: {tokenizer: x}\npretrained: {" + ", ".join(f"{name}: x" for name in names) + "}\n"
    study = load_study(write(tmp_path, text))
    assert [name for name, _ in study.points] == names
    assert study.run(125).name == "125"  # as papermill hands it over


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "a\nb", "x" * 151, " a", "a."])
def test_a_study_s_name_becomes_a_folder(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    with pytest.raises(UserError, match="becomes a folder"):
        load_study(path)


def test_a_study_is_text_and_a_folder_is_no_study(tmp_path, monkeypatch):
    for study in (None, True, 1.5, [], "", "a\0b", "x" * 5000, "~nobody-here/x"):
        assert len(message_of(study)) < 500  # type: ignore[arg-type]
    assert "that is a folder" in message_of(tmp_path)
    (tmp_path / "2024.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    assert f"write {tmp_path}/2024.yaml" in message_of("2024.yaml")  # relative paths start at the repository's root
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_study("~/2024.yaml").name == "2024"
    assert "no file 2024" in message_of(2024)  # type: ignore[arg-type]


def test_overrides_travel_as_they_are(tmp_path):
    path = write(tmp_path, SMALL)
    for text in ("a # b: {c}", "a: b", "- a", "&a", "*a", "!a", "%a", "#", "a\nb", "😀", "'a' \"b\"x", "$x `y`"):
        assert parse_overrides([f"title={text}" if text[0] not in "'\"" else f"title=-{text}"])["title"].endswith(text)
        assert parse_overrides(json.dumps({"title": text})) == {"title": text}
        assert load_study(path, {"title": text}).title == text
    assert parse_overrides("title='\"no\"' ood=null") == {"title": "no", "corpus.ood": None}
    assert "given twice" in message_of(path, "learning_rate=1 training.learning_rate=2")
    assert "the key seed stands" in message_of(path, '{"seed": 1, "seed": 2}')
    for odd in (
        5,
        True,
        [5],
        [None],
        b"x",
        {"seed": {1}},
        {"seed": 10**400},
        {"title": "\ud83d"},
        {"eps": float("nan")},
    ):
        assert len(message_of(path, odd)) < 500


def test_overrides_take_last_parts_dotted_names_text_and_json(tmp_path):
    path = write(tmp_path, SMALL)
    for overrides in (
        {"learning_rate": 1e-3},
        "learning_rate=1e-3",
        ["training.learning_rate=0.001"],
        '{"training.learning_rate": 0.001}',
    ):
        study = load_study(path, overrides)
        assert study.training.learning_rate == 1e-3
        assert study.training.batch_size == 4  # the YAML's other values stay
    assert load_study(path, "sensitivity=[1,5]").measurement.sensitivity == (1, 5)


def test_override_mistakes(tmp_path):
    path = write(tmp_path, SMALL)
    assert "did you mean learning_rate" in message_of(path, {"learning_rat": 1})
    assert "key=value" in message_of(path, "learning_rate")
    assert "training.learning_rate" in message_of(path, {"learning_rate": "fast"})
    assert message_of(path, "block_size=[1").startswith("block_size: '[1' is neither YAML nor JSON; close")
    assert message_of(path, "{block_size").startswith("overrides: '{block_size' is neither YAML nor JSON; close")
    assert "No closing quotation" in message_of(path, "title='open")
    assert message_of(path, {5: 1}) == "5: no such parameter"
    path = write(tmp_path, SMALL | {"corpus": 5})
    assert "corpus: should hold keys such as block_size, not '5'" in message_of(path, "block_size=3")


def test_blocks_are_held_to_the_positions_of_what_is_trained(tmp_path):
    path = write(
        tmp_path, {"corpus": {"block_size": 4096, "tokenizer": "some/model"}, "pretrained": {"theirs": "some/model"}}
    )
    assert load_study(path).points == [("theirs", 0)]  # that model's own positions are looked at when it is loaded


def test_a_pretrained_model_is_a_source_alone_or_with_its_revision(tmp_path):
    given = {"short": "some/model", "long": {"source": "some/model", "revision": "step3000"}}
    study = load_study(write(tmp_path, {"corpus": {"tokenizer": "some/model"}, "pretrained": given}))
    assert study.run("short") == PretrainedRun("short", "some/model", (None,))
    assert study.run("long") == PretrainedRun("long", "some/model", ("step3000",))
    with pytest.raises(UserError, match="model: long is pretrained: there is nothing to train"):
        study.trained_run("long")
    message = message_of(write(tmp_path, {"corpus": {"tokenizer": "x"}, "pretrained": {"a": {"revison": "x"}}}))
    assert "pretrained.a.source: is missing" in message
    assert "pretrained.a.revison: no such key; did you mean revision?" in message


def test_no_two_keys_share_a_last_part():
    keys = leaf_keys()
    assert len({key.rpartition(".")[2] for key in keys}) == len(keys)
    assert parse_overrides({"source": "x"}) == {"corpus.source": "x"}


def test_entries_that_name_the_same_run_share_it(tmp_path):
    entry = SMALL["grid"][0]
    study = load_study(write(tmp_path, SMALL | {"grid": [entry | {"checkpoints": 1}, entry | {"checkpoints": [0]}]}))
    assert [(run.name, run.checkpoints) for run in study.runs.values()] == [("01x0032_02d", (0, 1))]


def test_unknown_model_names_those_near(tmp_path):
    study = load_study(write(tmp_path, SMALL))
    with pytest.raises(UserError, match="01x0032_02d"):
        study.run("01x0032_03d")


def test_a_path_may_hold_bytes_that_are_no_text_but_not_half_a_character():
    assert resolve_path("/a/\udcff").parts[-1] == "\udcff"  # the byte 0xff, as Python reads names
    with pytest.raises(UserError, match="holds half a character; correct the path"):
        resolve_path("/a/\ud83d")


def test_revisions_are_written_out_as_a_shell_does_it(tmp_path):
    names = ["main", "step{1000..3000..1000}", "a{1..2}-tokens{5..6}B"]
    study = load_study(write(tmp_path, {"pretrained": {"theirs": {"source": "x", "revisions": names}}}))
    run = study.runs["theirs"]
    assert isinstance(run, PretrainedRun)
    assert run.revisions == (
        "main", "step1000", "step2000", "step3000", "a1-tokens5B", "a1-tokens6B", "a2-tokens5B", "a2-tokens6B",
    )  # fmt: skip
    assert run.checkpoints == tuple(range(8))
    assert study.points[-1] == ("theirs", 7)


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("step3000", {"steps": 3000, "tokens_seen": 6000}),
        ("stage1-step140000-tokens588B", {"steps": 140_000, "tokens_seen": 588 * 10**9}),
        ("iter-Tokens1.5T", {"tokens_seen": 1_500_000_000_000}),
        ("main", {}),
        (None, {}),
        ("misstep5", {}),
    ],
)
def test_how_far_a_revision_was_trained_is_in_its_name(name, progress):
    run = PretrainedRun("theirs", "x", (name,), tokens_per_step=2)
    assert run.progress_of(0) == progress
