"""2D's commands as a user types them, and that their numbers are what they say."""

import csv
import itertools
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import (
    ROOT,
    ends_with_one_line,
    image_arguments,
    image_curriculum,
    run_here,
    run_script,
    sphere_arguments,
    sphere_curriculum,
    write_idx,
)
from metasdf.api import train
from metasdf.data.tasks import collate
from metasdf.images import evaluation as image_evaluation
from metasdf.images.evaluation import (
    DEFINITIONS,
    TEST,
    errors,
    evaluate,
    table,
    write_image_gallery,
)
from metasdf.images.pictures import (
    colour_picture,
    distance_picture,
    shown_steps,
)
from metasdf.images.sources import load_digits
from metasdf.images.tasks import PARTS, ImageDataset, load_images
from metasdf.learning.checkpoints import load_checkpoint, save_checkpoint
from metasdf.learning.models import build_model
from metasdf.losses import psnr

CPU = torch.device("cpu")


def run_2d(script, *arguments, monkeypatch):
    return run_here(script, *arguments, monkeypatch=monkeypatch, experiments="2D")


def save_untrained(curriculum, path):
    """A checkpoint as training writes it, of a model that has learned nothing."""
    model = build_model(curriculum, 2)
    save_checkpoint(
        path,
        {"curriculum": curriculum, "train_shapes": ["0", "1"], "epoch": 0}
        | {"model": model.state_dict(), "optimizer": {}},
    )
    return path


# Measures


class Model:
    """What `errors` asks of a model: its loss."""

    def __init__(self, curriculum):
        self.loss = build_model(curriculum).loss


def test_errors_are_those_by_hand(tmp_path):
    model = Model(image_curriculum(tmp_path))
    prediction = torch.tensor([[-0.1, -0.2, 0.3, 0.4], [0.1, 0.1, 0.1, 0.1]])[..., None]
    target = torch.tensor([[-0.1, 0.1, -0.1, 0.5], [0.2, 0.1, 0.1, 0.1]])[..., None]
    measured = errors(model, prediction, target, pixels=10)
    assert measured["absolute_error"] == pytest.approx([10 * (0.3 + 0.4 + 0.1) / 4, 10 * 0.1 / 4])
    assert measured["squared_error"] == pytest.approx([(0.09 + 0.16 + 0.01) / 4, 0.01 / 4])
    assert measured["iou"] == pytest.approx([1 / 3, 0])  # of the second, nothing is inside
    assert measured["misclassified_percentage"] == [50, 0]
    assert measured.keys() == DEFINITIONS.keys() - {"psnr"}


def test_a_composite_networks_distance_has_the_sign_of_its_logit(tmp_path):
    model = Model(image_curriculum(tmp_path, training_mode="multitask"))
    prediction = torch.tensor([[[3.0, -0.2], [-2.0, 0.1]]])
    target = torch.tensor([[[0.2], [-0.1]]])
    measured = errors(model, prediction, target, pixels=64)
    assert measured["absolute_error"] == pytest.approx([0], abs=1e-6)
    assert measured["iou"] == [1]


def test_photographs_are_measured_one_by_one(tmp_path):
    model = Model(image_curriculum(tmp_path, "cifar"))
    prediction = torch.rand(3, 7, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    target = torch.zeros(3, 7, 3)
    measured = errors(model, prediction, target, pixels=10)
    assert measured.keys() == {"psnr"}
    mse = prediction.clamp(-1, 1).square().mean(dim=(1, 2))
    assert measured["psnr"] == pytest.approx((10 * torch.log10(4 / mse)).tolist())
    assert np.mean(measured["psnr"]) == pytest.approx(psnr(prediction, target).item())


def test_an_evaluations_rows_are_the_errors_at_pixels_outside_the_context(tmp_path):
    curriculum = image_curriculum(tmp_path, test_images=18)  # more than are fitted at once
    model = build_model(curriculum).eval()
    result = evaluate(model, curriculum, CPU)
    assert list(result["parts"]) == list(PARTS)
    assert result["num_shapes"] == 18 * 4
    assert result["num_failed"] == 0
    assert result["psnr_by_step"] is None
    assert [row["shape"] for row in result["shapes"][17:19]] == ["test/17", "rotated/0"]
    assert result["fit_seconds"] > 0

    images, _ = load_images(curriculum, "double")
    whole = {**curriculum, "pixels": None, "images_per_epoch": None}
    task = collate([ImageDataset(images, whole, TEST).task(17, 0)])
    assert task["context"][0].shape == (1, 2048, 2)
    assert task["query"][0].shape == (1, 2048, 2)
    prediction = model.predict(task["query"][0], model.adapt(task["context"]))
    expected = (64 * (prediction - task["query"][1]).abs().mean()).item()
    (row,) = [row for row in result["shapes"] if row["shape"] == "double/17"]
    assert row["absolute_error"] == pytest.approx(expected, rel=1e-4)

    of_double = [row["iou"] for row in result["shapes"] if row["part"] == "double"]
    assert result["parts"]["double"]["iou"]["mean"] == pytest.approx(np.mean(of_double))
    assert result["parts"]["double"]["iou"]["median"] == pytest.approx(np.median(of_double))
    worst = sorted(result["shapes"], key=lambda row: -row["absolute_error"])[:5]
    assert result["worst"] == [row["shape"] for row in worst]
    text = table(result)
    assert all(line in text for line in (*PARTS, "72 of 72 images measured, 0 failed"))
    assert f"{result['parts']['triple']['absolute_error']['mean']:.3f} (" in text


def test_init_bias_moves_the_field_before_training(tmp_path):
    x = torch.rand(1, 9, 2)
    fields = []
    for bias in (None, -0.2, 0.3):
        torch.manual_seed(0)
        model = build_model(image_curriculum(tmp_path, network="siren", init_bias=bias))
        fields.append(model.network(x).detach())
    _, low, high = fields
    torch.testing.assert_close(high - low, torch.full((1, 9, 1), 0.5))
    torch.testing.assert_close(fields[0] - fields[0].mean(), low - low.mean())
    assert low.mean() < fields[0].mean() < high.mean()


def test_images_that_cannot_be_used_count_as_failed(tmp_path):
    digits = load_digits("embedded", "test", "nowhere")[:4].copy()
    digits[1] = 0
    write_idx(tmp_path / "t10k-images-idx3-ubyte", digits)
    curriculum = image_curriculum(tmp_path / "out", data_source=tmp_path)
    result = evaluate(build_model(curriculum), curriculum, CPU)
    assert (result["num_shapes"], result["num_failed"]) == (16, 2)  # test and rotated
    assert "14 of 16 images measured, 2 failed" in table(result)


def test_all_of_a_few_steps_are_shown_and_the_ends_of_many(tmp_path):
    model = build_model(image_curriculum(tmp_path))
    assert shown_steps(model) == [0, 1, 2, 3]
    assert shown_steps(model, 10) == list(range(11))
    assert shown_steps(model, 11) == [0, 11]
    assert shown_steps(model, 0) == [0]


# Pictures


@pytest.mark.parametrize("n", [32, 64, 90])
def test_distances_are_orange_inside_blue_outside_and_black_between(n):
    row, column = np.mgrid[:n, :n] / n - 0.5
    image = distance_picture((np.hypot(row, column) - 0.3).astype(np.float32), 320).astype(int)
    assert image.shape == (320, 320, 3)
    middle, corner = image[160, 160], image[3, 3]
    assert middle[0] > middle[2] + 30
    assert corner[2] > corner[0] + 10
    on_boundary = image[160, 160 + round(0.3 * 320) - 5 : 160 + round(0.3 * 320) + 6]
    assert on_boundary.sum(axis=1).min() < 60


def test_colours_are_shown_as_they_are_and_cut_off_at_the_ends():
    colours = np.array([[[-1, 0, 1], [-7, 7, 0.5]], [[1, 1, 1], [-1, -1, -1]]], float)
    image = colour_picture(colours, 8)
    assert image.shape == (8, 8, 3)
    assert (image[:4, :4] == [0, 128, 255]).all()
    assert (image[:4, 4:] == [0, 255, 191]).all()
    assert (image[4:, :4] == 255).all()


# Commands


def test_digits_from_training_to_a_table(tmp_path):
    arguments = [
        "mnist",
        *image_arguments(tmp_path / "out", num_epochs=10, init_lr=5e-2, lr=3e-3, test_images=2),
    ]
    trained = run_script("run_train.py", *arguments, cwd=tmp_path, experiments="2D")
    assert "trained 10 epochs, 40 steps" in trained.stdout
    assert trained.stderr == ""
    checkpoint = ("--checkpoint", "out/checkpoints/latest.pth")
    evaluated = run_script(
        "run_eval.py",
        *arguments,
        *checkpoint,
        *("--gallery", "gallery.png"),
        cwd=tmp_path,
        experiments="2D",
    )
    assert "8 of 8 images measured, 0 failed" in evaluated.stdout
    assert evaluated.stderr == ""
    folder = tmp_path / "out" / "evaluation"
    result = json.loads((folder / "evaluation.json").read_text())
    assert result["num_failed"] == 0
    assert result["curriculum"]["data"] == "digits"
    assert result["checkpoint"] == checkpoint[1]
    with open(folder / "evaluation.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["shape"] for row in rows] == [f"{part}/{i}" for part in PARTS for i in range(2)]
    with Image.open(tmp_path / "gallery.png") as gallery:
        assert gallery.size == (5 * 320, 4 * 2 * 344)

    untrained = build_model(result["curriculum"])
    before = evaluate(untrained, result["curriculum"], CPU)
    error = {
        part: (
            result["parts"][part]["absolute_error"]["mean"],
            statistics["absolute_error"]["mean"],
        )
        for part, statistics in before["parts"].items()
    }
    assert error["test"][0] < 0.8 * error["test"][1], error
    assert all(after < start for after, start in error.values()), error


def test_the_data_folder_is_relative_to_where_the_user_stands(tmp_path, monkeypatch, capsys):
    digits = load_digits("embedded", "train", "nowhere")[:3] // 4  # too pale to be ink
    write_idx(tmp_path / "digits" / "train-images-idx3-ubyte.gz", digits)
    monkeypatch.chdir(tmp_path)
    arguments = image_arguments(tmp_path / "out", data_source="digits")
    assert run_2d("run_train.py", "mnist", *arguments, monkeypatch=monkeypatch) == 2
    assert "digits: no digit has ink and background" in capsys.readouterr().err


def test_load_goes_on_to_the_same_weights_and_overwrite_starts_anew(tmp_path, monkeypatch, capsys):
    def weights(folder):
        return load_checkpoint(tmp_path / folder / "checkpoints" / "latest.pth")["model"]

    def run(folder, *more, **keys):
        small = {"images_per_epoch": 8, "ScenesPerBatch": 4, "pixels": 64, **keys}
        arguments = image_arguments(tmp_path / folder, **small)
        return run_2d("run_train.py", "mnist", *arguments, *more, monkeypatch=monkeypatch)

    assert run("whole", num_epochs=2) == 0
    assert run("parts", num_epochs=1) == 0
    first = weights("parts")
    assert run("parts", num_epochs=2) == 2
    assert "go on with --load" in capsys.readouterr().err
    assert run("parts", "--load", num_epochs=2) == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(*map(dict.values, map(weights, ("whole", "parts"))), strict=True)
    )
    assert run("parts", "--overwrite", num_epochs=1) == 0
    assert all(torch.equal(value, first[name]) for name, value in weights("parts").items())


def test_photographs_gain_with_every_step(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    corners = rng.integers(40, 216, (44, 2, 2, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(c).resize((12, 12), Image.BILINEAR)) for c in corners]
    np.savez(tmp_path / "smooth.npz", train_images=smooth[:36], test_images=smooth[36:])
    arguments = [
        "cifar",
        *image_arguments(
            tmp_path / "out",
            data_source=tmp_path / "smooth.npz",
            image_size=12,
            network="siren",
            w0=10.0,
            pixels="none",
            num_epochs=8,
        ),
    ]
    assert run_2d("run_train.py", *arguments, monkeypatch=monkeypatch) == 0
    checkpoint = ("--checkpoint", tmp_path / "out" / "checkpoints" / "latest.pth")
    more = (*checkpoint, "--gallery", tmp_path / "gallery.png")
    assert run_2d("run_eval.py", *arguments, *more, monkeypatch=monkeypatch) == 0
    output = capsys.readouterr()
    assert "PSNR by step: " in output.out
    assert "8 of 8 images measured, 0 failed" in output.out
    result = json.loads((tmp_path / "out" / "evaluation" / "evaluation.json").read_text())
    by_step = result["psnr_by_step"]
    assert len(by_step) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(by_step))
    assert by_step[-1] == pytest.approx(result["parts"]["test"]["psnr"]["mean"])
    assert by_step[-1] > by_step[0] + 3
    assert result["worst"][0] == min(result["shapes"], key=lambda row: row["psnr"])["shape"]
    with Image.open(tmp_path / "gallery.png") as gallery:
        assert gallery.size == (5 * 320, 3 * 344)

    one_step = [*arguments, *more, "--steps", 1]
    assert run_2d("run_eval.py", *one_step, monkeypatch=monkeypatch) == 0
    assert f"PSNR by step: {by_step[0]:.2f}, {by_step[1]:.2f} dB" in capsys.readouterr().out
    with Image.open(tmp_path / "gallery.png") as gallery:
        assert gallery.size == (3 * 320, 3 * 344)


def test_an_auto_decoder_fits_as_the_curriculum_in_use_says(tmp_path, monkeypatch, capsys):
    keys = {"num_epochs": 1, "images_per_epoch": 4, "test_images": 2, "code_steps": 2}
    keys |= {"latent_features": 4}
    arguments = ["digits_autodecoder_concat", *image_arguments(tmp_path / "out", **keys)]
    assert run_2d("run_train.py", *arguments, monkeypatch=monkeypatch) == 0
    checkpoint = ("--checkpoint", tmp_path / "out" / "checkpoints" / "latest.pth")

    def error(*more):
        evaluated = [*arguments, *checkpoint, *more]
        assert run_2d("run_eval.py", *evaluated, monkeypatch=monkeypatch) == 0
        result = json.loads((tmp_path / "out" / "evaluation" / "evaluation.json").read_text())
        return result["parts"]["test"]["absolute_error"]["mean"]

    after_two = error()
    assert error("--code_steps", 1) != after_two
    assert error("--steps", 1) == error("--code_steps", 1)
    assert error("--code_points", 8) != after_two


def test_what_differs_from_training_is_told(tmp_path, monkeypatch, capsys):
    keys = {"num_epochs": 1, "images_per_epoch": 4, "test_images": 1, "distance": "exact"}
    arguments = ["mnist", *image_arguments(tmp_path / "out", **keys)]
    assert run_2d("run_train.py", *arguments, monkeypatch=monkeypatch) == 0
    checkpoint = ("--checkpoint", tmp_path / "out" / "checkpoints" / "latest.pth")
    assert run_2d("run_eval.py", *arguments, *checkpoint, monkeypatch=monkeypatch) == 0
    assert "note:" not in capsys.readouterr().out
    other = ("--distance", "original", "--context_mode", "levelset")
    assert run_2d("run_eval.py", *arguments, *checkpoint, *other, monkeypatch=monkeypatch) == 0
    output = capsys.readouterr().out
    assert "note: distance is original, but was exact in training" in output
    assert "note: context_mode is levelset, but was dense in training" in output


def test_an_image_that_cannot_be_read_is_told_once_and_by_the_exit_code(
    tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(folder / f"{number:02}.png")
    for broken in ("03.png", "09.png"):  # to train on, to test on
        (folder / broken).write_text("no image")
    keys = {"data_source": folder, "image_size": 8, "pixels": 32, "num_epochs": 1}
    arguments = ["cifar", *image_arguments(tmp_path / "out", **keys)]
    assert run_2d("run_train.py", *arguments, monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err.count("left out: ") == 1
    checkpoint = ("--checkpoint", tmp_path / "out" / "checkpoints" / "latest.pth")
    more = (*checkpoint, "--gallery", tmp_path / "gallery.png")
    assert run_2d("run_eval.py", *arguments, *more, monkeypatch=monkeypatch) == 1
    output = capsys.readouterr()
    assert "1 of 2 images measured, 1 failed" in output.out
    assert output.err.count("left out: ") == 1


# Bad input


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run_train.py", ["mnis"], "did you mean mnist"),
        ("run_train.py", [], "curriculum"),
        ("run_train.py", ["mnist", "--train_split", "a"], "did you mean --train_images"),
        ("run_train.py", ["mnist", "--pixels", "few"], "--pixels: 'few' is not"),
        ("run_train.py", ["mnist", "--context_mode", "partial"], "choose one of dense, levelset"),
        ("run_train.py", ["mnist", "--data_source", "nowhere"], "nowhere: holds no train-images"),
        ("run_train.py", ["cifar", "--data_source", "nowhere"], "nowhere: is no folder of images"),
        ("run_train.py", ["cifar", "--data_source", "no.npz"], "no.npz: file not found"),
        ("run_train.py", ["mnist", "--device", "abacus"], "--device abacus: not available"),
        ("run_eval.py", ["mnist"], "--checkpoint"),
        ("run_eval.py", ["mnist", "--checkpoint", "no.pth"], "no such checkpoint"),
        ("run_eval.py", ["mnist", "--checkpoint", "a", "--gallery", "a.jpg"], "must end in .png"),
        ("run_eval.py", ["mnist", "--checkpoint", "a", "--steps", "-1"], "not a whole number"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    script, arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = {"monkeypatch": monkeypatch, "capsys": capsys, "experiments": "2D"}
    assert message in ends_with_one_line(script, *arguments, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["run_train.py", "run_eval.py"])
def test_help_is_there_and_scripts_stay_thin(script, monkeypatch, capsys):
    assert run_2d(script, "--help", monkeypatch=monkeypatch) == 0
    text = capsys.readouterr().out
    assert "--images_per_epoch" in text
    assert "--SDFSamplesPerScene" not in text
    assert len((ROOT / "2D" / "scripts" / script).read_text().splitlines()) <= 60


def test_checkpoints_of_2d_and_3d_are_not_taken_for_one_another(
    spheres, tmp_path, monkeypatch, capsys
):
    flat, solid = tmp_path / "flat", tmp_path / "solid"
    of_2d = save_untrained(image_curriculum(flat), flat / "checkpoints" / "latest.pth")
    curriculum = sphere_curriculum(spheres, solid)
    of_3d = save_untrained(curriculum, solid / "checkpoints" / "latest.pth")
    flat, deep = (
        ["mnist", *image_arguments(solid)],
        ["tables_tiny", *sphere_arguments(spheres, flat)],
    )
    for script, arguments, experiments in (
        ("run_eval.py", [*flat, "--checkpoint", of_3d], "2D"),
        ("run_train.py", [*flat, "--load"], "2D"),
        ("run_reconstruct.py", [*deep, "--checkpoint", of_2d], "3D"),
        ("run_train.py", [*deep, "--load"], "3D"),
    ):
        error = ends_with_one_line(
            script,
            *arguments,
            monkeypatch=monkeypatch,
            capsys=capsys,
            experiments=experiments,
        )
        trained = "3D, not of 2D" if experiments == "2D" else "2D, not of 3D"
        assert f"was trained on a curriculum of {trained}" in error


def test_a_model_of_photographs_is_not_measured_on_digits_or_contours(
    tmp_path, monkeypatch, capsys
):
    curriculum = image_curriculum(tmp_path, "cifar", image_size=8)
    checkpoint = ("--checkpoint", save_untrained(curriculum, tmp_path / "model.pth"))
    arguments = image_arguments(tmp_path)
    options = {"monkeypatch": monkeypatch, "capsys": capsys, "experiments": "2D"}
    error = ends_with_one_line("run_eval.py", "mnist", *arguments, *checkpoint, **options)
    assert "was trained on photographs, not on digits" in error
    levelset = image_arguments(tmp_path, context_mode="levelset")
    error = ends_with_one_line("run_eval.py", "cifar", *levelset, *checkpoint, **options)
    assert "a photograph has no contour" in error


def test_an_encoders_and_an_auto_decoders_fits_are_drawn_too(tmp_path):
    for method in ("cnn_concat", "autodecoder_hyper"):
        curriculum = image_curriculum(tmp_path, method=method, test_images=1)
        parts = image_evaluation.test_parts(curriculum)
        model = build_model(curriculum, 2).eval()
        write_image_gallery(tmp_path / f"{method}.png", model, parts, CPU)
        with Image.open(tmp_path / f"{method}.png") as gallery:
            assert gallery.size == (3 * 320, 4 * 344)  # initialisation, fit, truth


def test_training_writes_nothing_where_data_is_missing(tmp_path, monkeypatch, capsys):
    arguments = image_arguments(tmp_path / "out", data_source=tmp_path / "absent")
    error = ends_with_one_line(
        "run_train.py",
        "mnist",
        *arguments,
        monkeypatch=monkeypatch,
        capsys=capsys,
        experiments="2D",
    )
    assert "absent: holds no train-images" in error
    assert not (tmp_path / "out").exists()


def test_training_reports_the_score_of_its_loss(tmp_path, caplog):
    caplog.set_level(logging.INFO, "metasdf")
    train(image_curriculum(tmp_path, num_epochs=1, images_per_epoch=8), device=CPU)
    assert "% misclassified" in caplog.text
