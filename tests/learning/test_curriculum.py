"""Curriculums are checked dictionaries of values; the original seven are as published."""

import json
import subprocess
import sys

import pytest

from conftest import ROOT
from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.errors import InputError
from metasdf.learning.curriculum import KEYS, load_curriculum

FILE = ROOT / "3D" / "curriculums.py"

RELU = {
    "network": "relu",
    "hidden_layers": 8,
    "num_meta_steps": 5,
    "lr_type": "per_parameter",
    "SDFSamplesPerScene": 24000,
    "ScenesPerBatch": 32,
    "lr": 5e-4,
}
PE = {
    "network": "pe",
    "hidden_layers": 6,
    "num_meta_steps": 3,
    "lr_type": "simple_per_parameter",
    "SDFSamplesPerScene": 8000,
    "ScenesPerBatch": 28,
    "lr": 5e-4,
}
ALL = {
    "hidden_features": 512,
    "init_lr": 5e-3,
    "num_epochs": 3000,
    "training_mode": "multitask",
    "context_mode": "dense",
    "query": "all",
    "frequencies": 5,
    "first_order": False,
    "lr_decay_epochs": 350,
    "lr_decay_factor": 0.5,
    "gradient_clip": 0.5,
    "checkpoint_every": 100,
    "reconstruction_sdf_samples": 100_000,
    "reconstruction_levelset_samples": 10_000,
    "resolution": 256,
}
ORIGINALS = {
    "planes_relu": RELU,
    "tables_relu": RELU,
    "benches_relu": RELU,
    "planes_pe": PE,
    "tables_pe": PE,
    "benches_pe": PE,
    "benches_debug": {**PE, "ScenesPerBatch": 32, "lr": 1e-3},
}
COMPARED = [
    f"{data}_{method}"
    for data in ("planes", "compare")
    for method in ("autodecoder", "set_concat", "set_hyper")
]
PATHS = {
    key: f"there/{key}"
    for key in (
        "data_source",
        "train_split",
        "val_split",
        "test_split",
        "output_dir",
        "reconstruction_output_dir",
    )
}
# One value per key that no curriculum and no default has.
OTHER = {
    **{key: f"/elsewhere/{key}" for key in PATHS},
    "context_mode": "partial",
    "query": "held_out",
    "SDFSamplesPerScene": 17,
    "LevelsetSamplesPerScene": 18,
    "augment_rotation": True,
    "augment_frame": 0.25,
    "augment_noise": 0.125,
    "network": "siren",
    "hidden_layers": 1,
    "hidden_features": 33,
    "frequencies": 2,
    "w0": 12.5,
    "method": "set_hyper",
    "adapted": "both",
    "latent_grids": "4,16",
    "latent_points": 35,
    "latent_channels": 6,
    "latents_enter": "first",
    "latent_lr": 0.75,
    "latent_features": 34,
    "dropout": 0.125,
    "clamp": 0.375,
    "sharpness": 40.0,
    "code_lr": 0.625,
    "code_steps": 12,
    "code_points": 13,
    "training_mode": "l2",
    "num_meta_steps": 2,
    "extra_step_factor": 0.75,
    "lr_type": "meta_sgd",
    "init_lr": 0.125,
    "init_bias": -0.375,
    "first_order": True,
    "lr": 0.25,
    "lr_schedule": "cosine",
    "lr_decay_epochs": 7,
    "lr_decay_factor": 0.75,
    "warmup_steps": 8,
    "gradient_clip": 1.5,
    "gradient_norm": 2.5,
    "ScenesPerBatch": 3,
    "scenes_per_microbatch": 5,
    "recompute_steps": True,
    "precision": "tf32",
    "compile": True,
    "num_epochs": 4,
    "validate_every": 2,
    "checkpoint_every": 6,
    "seed": 11,
    "reconstruction_sdf_samples": 19,
    "reconstruction_levelset_samples": 20,
    "context_points": 77,
    "context_noise": 0.0625,
    "reconstruction_steps": 9,
    "refine": 1.5,
    "keep": 2,
    "resolution": 21,
    "up": "z",
    "surface": "logit",
    "dense_grid": True,
}


def written(folder, text=None, name="small", **values):
    """A curriculums file with one curriculum, `small`."""
    file = folder / "mine.py"
    file.write_text(f"{name} = { ({**PATHS, **values})!r}\n" if text is None else text)
    return file


def command_line(*arguments):
    parser = CurriculumCommandLine(prog="train")
    parser.add_argument("curriculum")
    parser.add_curriculum_keys()
    return parser.overrides(parser.parse(["planes_relu", *arguments]))


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_curriculums_have_their_original_values(name):
    curriculum = load_curriculum(name)
    expected = {**ALL, **ORIGINALS[name]}
    assert {key: curriculum[key] for key in expected} == expected
    category = name.split("_")[0]
    assert curriculum["train_split"] == str(ROOT / f"3D/splits/{category}_train.json")
    assert curriculum["val_split"] == curriculum["test_split"]
    assert curriculum["test_split"] == str(ROOT / f"3D/splits/{category}_test.json")


def test_no_two_curriculums_write_into_the_same_folder():
    names = [*ORIGINALS, *COMPARED, "compare_metasdf", "tables_tiny", "tables_levelset", "planes8"]
    for key in ("output_dir", "reconstruction_output_dir"):
        assert len({load_curriculum(name)[key] for name in names}) == len(names)


@pytest.mark.parametrize("name", COMPARED)
def test_methods_are_compared_on_the_same_shapes(name):
    curriculum = load_curriculum(name)
    assert name.endswith(curriculum["method"])
    data = name.removesuffix("_" + curriculum["method"])
    metasdf = load_curriculum({"planes": "planes_relu", "compare": "compare_metasdf"}[data])
    assert metasdf["method"] == "metasdf"
    for key in ("data_source", "train_split", "val_split", "test_split", "hidden_features"):
        assert curriculum[key] == metasdf[key]


def test_the_auto_decoder_has_the_published_values_of_deepsdf():
    curriculum = load_curriculum("planes_autodecoder")
    published = {
        "hidden_layers": 7,  # eight of 512
        "hidden_features": 512,
        "latent_features": 256,
        "dropout": 0.2,
        "clamp": 0.1,
        "training_mode": "l1",
        "lr": 5e-4,
        "code_lr": 1e-3,
        "lr_decay_epochs": 500,
        "lr_decay_factor": 0.5,
        "code_steps": 800,
        "SDFSamplesPerScene": 16384,
        "ScenesPerBatch": 64,
    }
    assert {key: curriculum[key] for key in published} == published


def test_the_demo_is_a_small_curriculum():
    tiny = load_curriculum("tables_tiny")
    assert tiny["hidden_features"] <= 128
    assert tiny["num_epochs"] <= 100


def test_reading_the_curriculums_imports_nothing():
    program = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("curriculums", {str(FILE)!r})
module = importlib.util.module_from_spec(spec)
before = set(sys.modules)
spec.loader.exec_module(module)
print(json.dumps({{"new": sorted(set(sys.modules) - before), "values": [
    value for name, value in vars(module).items() if name[0] != "_"], "names": [
    name for name in vars(module) if name[0] != "_"]}}))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr  # json.dumps refuses all but plain values
    loaded = json.loads(result.stdout)
    assert loaded["new"] == []
    assert {*ORIGINALS, *COMPARED, "tables_tiny"} <= set(loaded["names"])
    assert all(isinstance(value, dict) for value in loaded["values"])


def test_defaults_fill_in_what_a_curriculum_leaves_out(tmp_path):
    curriculum = load_curriculum("small", file=written(tmp_path, lr=1))
    assert list(curriculum) == list(KEYS)
    assert curriculum["lr"] == 1.0
    assert isinstance(curriculum["lr"], float)
    assert curriculum["reconstruction_steps"] is None
    for name, key in KEYS.items():
        assert name in PATHS or name == "lr" or curriculum[name] == key.default


def test_every_key_has_a_value_that_differs_here():
    assert OTHER.keys() == KEYS.keys()
    originals = [load_curriculum(name) for name in ORIGINALS]
    assert all(c[key] != value for key, value in OTHER.items() for c in originals)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_overridden_on_the_command_line(key):
    overrides = command_line(f"--{key}", str(OTHER[key]))
    assert overrides == {key: OTHER[key]}
    changed = load_curriculum("planes_relu", overrides)
    assert changed == {**load_curriculum("planes_relu"), key: OTHER[key]}
    assert type(changed[key]) is KEYS[key].type


def test_no_override_changes_nothing():
    assert command_line() == {}
    assert command_line("--reconstruction_steps", "none") == {"reconstruction_steps": None}
    assert command_line("--first_order", "False") == {"first_order": False}


def test_some_keys_take_words_beside_numbers():
    assert command_line("--reconstruction_steps", "auto") == {"reconstruction_steps": "auto"}
    for keep, value in (("all", "all"), ("largest", "largest"), ("3", 3)):
        assert command_line("--keep", keep) == {"keep": value}
    with pytest.raises(InputError, match="keep: 'most' is a str"):
        load_curriculum("planes_relu", {"keep": "most"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "5e-4", "lr: '5e-4' is a str, want float"),
        ("lr", True, "lr: True is a bool, want float"),
        ("lr", -1.0, "too small; the least is 0"),
        ("lr", float("nan"), "lr: nan"),
        ("lr", float("inf"), "lr: inf"),
        ("init_lr", float("nan"), "init_lr: nan"),
        ("lr", None, "lr: None"),
        ("hidden_layers", 2.0, "want int"),
        ("hidden_layers", True, "want int"),
        ("hidden_layers", -1, "the least is 0"),
        ("num_meta_steps", 0, "the least is 1"),
        ("first_order", 1, "want bool"),
        ("method", "autoencoder", "choose one of metasdf, autodecoder, set_concat, set_hyper"),
        ("latent_features", 0, "the least is 1"),
        ("clamp", 0.0, "the least is 0.001"),
        ("network", "rleu", "'rleu' is unknown; choose one of relu, pe, siren"),
        ("context_mode", "sparse", "choose one of dense, levelset, partial"),
        ("training_mode", "l3", "choose one of"),
        ("lr_type", "adaptive", "choose one of .*meta_sgd"),
        ("output_dir", 5, "want str"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_that_names_place_and_key(
    tmp_path, key, value, message
):
    text = f"nan, inf = float('nan'), float('inf')\nsmall = { ({**PATHS, key: value})!r}\n"
    with pytest.raises(InputError, match=message) as error:
        load_curriculum("small", file=written(tmp_path, text))
    assert str(error.value).startswith(f"mine.py, small: {key}: ")
    with pytest.raises(InputError, match=rf"command line: {key}: "):
        load_curriculum("small", {key: value}, file=written(tmp_path))


@pytest.mark.parametrize(
    ("key", "text"),
    [("lr", "fast"), ("hidden_layers", "2.5"), ("first_order", "maybe"), ("seed", "none")],
)
def test_a_text_that_is_no_such_value_is_quoted_in_the_error(key, text):
    kind = {"first_order": "is neither true nor false", "lr": "is not a number"}.get(
        key, "is not a whole number"
    )
    with pytest.raises(InputError, match=f"--{key}: '{text}' {kind}"):
        command_line(f"--{key}", text)


def test_a_missing_key_is_named_with_its_meaning(tmp_path):
    file = written(tmp_path, "small = {'data_source': 'x'}")
    with pytest.raises(InputError, match=r"small: key 'train_split' is missing \(split file of"):
        load_curriculum("small", file=file)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("num_epoch", "num_epochs"), ("LR_type", "lr_type"), ("scenesperbatch", "ScenesPerBatch")],
)
def test_a_misspelt_key_is_an_error_that_names_near_matches(tmp_path, misspelt, meant):
    with pytest.raises(InputError, match=f"unknown key '{misspelt}'; did you mean .*{meant}"):
        load_curriculum("small", file=written(tmp_path, **{misspelt: 1}))
    with pytest.raises(InputError, match=f"unknown argument '--{misspelt}'; did you .*--{meant}"):
        command_line(f"--{misspelt}", "1")
    with pytest.raises(InputError, match=f"'{misspelt}'.*{meant}"):
        load_curriculum("small", {misspelt: 1}, file=written(tmp_path))


def test_an_abbreviated_key_is_not_guessed():
    with pytest.raises(InputError, match="unknown argument '--num_epo'; did you mean --num_epochs"):
        command_line("--num_epo", "3")


def test_a_misspelt_curriculum_is_an_error_that_names_near_matches():
    with pytest.raises(InputError, match=r"curriculums\.py: no curriculum 'plane_relu'.*planes_re"):
        load_curriculum("plane_relu")
    with pytest.raises(InputError, match=r"no curriculum 'xyz'; known: benches_debug, .*tables_pe"):
        load_curriculum("xyz")
    with pytest.raises(InputError, match="no curriculum '_RELU'"):
        load_curriculum("_RELU")


def test_relative_paths_start_at_the_file_and_overrides_at_the_working_directory(
    tmp_path, monkeypatch
):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    written(tmp_path, data_source="../data", train_split="/far/away.json")
    curriculum = load_curriculum("small", {"output_dir": "out/x"}, file="../mine.py")
    assert curriculum["data_source"] == str(tmp_path.parent / "data")
    assert curriculum["train_split"] == "/far/away.json"
    assert curriculum["test_split"] == str(tmp_path / "there/test_split")
    assert curriculum["output_dir"] == str(tmp_path / "cwd/out/x")


@pytest.mark.parametrize(
    "text", ["small = {", "import nowhere_at_all", "small = 1 + 'x'", "small = {}['x']", "x = y"]
)
def test_a_curriculums_file_that_does_not_run_is_an_input_error(tmp_path, text):
    with pytest.raises(InputError, match=r"mine\.py: cannot be loaded"):
        load_curriculum("small", file=written(tmp_path, text))


def test_a_missing_curriculums_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.py: cannot be loaded"):
        load_curriculum("small", file=tmp_path / "none.py")


def test_a_stray_word_is_named_without_a_list_of_options():
    with pytest.raises(InputError, match=r"^'3' is one argument too many \(see .* --help\)$"):
        command_line("--lr", "1e-3", "3")
