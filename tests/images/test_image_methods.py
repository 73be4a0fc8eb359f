"""Every method on images: what it reads, that it learns, and which curriculums there are."""

import math
import runpy

import numpy as np
import pytest
import torch

from conftest import ROOT, image_curriculum
from metasdf.api import train
from metasdf.baselines import ConvolutionalEncoder
from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.data.pixels import PixelFrame, pixel_frame
from metasdf.errors import InputError
from metasdf.images.sources import load_digits
from metasdf.images.tasks import ImageDataset, boundary_segments, digit_masks, load_images
from metasdf.learning.checkpoints import load_checkpoint
from metasdf.learning.curriculum import KEYS, KEYS_2D, METHODS_2D, complete, load_curriculum
from metasdf.learning.gradients import MetaGradients, meta_loss
from metasdf.learning.loop import outer_step, validate
from metasdf.learning.model_files import load_model
from metasdf.learning.models import build_model

CPU = torch.device("cpu")
FILE = ROOT / "2D" / "curriculums.py"


# The convolutional encoder


def encoder(pixels=16, values=1, of_digit=True):
    return ConvolutionalEncoder(pixel_frame(pixels, of_digit), 6, width=4, values=values)


def context(tasks=2, points=60, values=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(tasks, points, 2, generator=rng) - 0.5
    return x, torch.randn(tasks, points, values, generator=rng)


def squares(corners, n=16, side=6):
    images = np.zeros((len(corners), n, n), bool)
    for image, (row, column) in zip(images, corners, strict=True):
        image[row : row + side, column : column + side] = True
    return images


def contours(images):
    """All middles of the sides of shapes' boundaries, with value 0."""
    middles = np.stack([boundary_segments(image).mean(axis=1) for image in images])
    x = torch.from_numpy(middles / images.shape[1] - 0.5).float()
    return x, torch.zeros(*x.shape[:2], 1)


def test_a_convolutional_code_does_not_depend_on_the_order_of_points_nor_on_other_tasks():
    read, (x, y) = encoder(), context()
    order = torch.randperm(x.shape[1])
    codes = read((x, y))
    assert codes.shape == (2, 6)
    torch.testing.assert_close(read((x[:, order], y[:, order])), codes)
    torch.testing.assert_close(read((x[1:], y[1:])), codes[1:])
    assert not torch.allclose(codes[0], codes[1])


@pytest.mark.parametrize("frame", [pixel_frame(4, True), pixel_frame(4, False)])
def test_values_stand_at_their_pixels_and_unseen_pixels_are_zero(frame):
    def at(row, column):
        return [frame.start + row * frame.spacing, frame.start + column * frame.spacing]

    x = torch.tensor([[at(0, 3), at(2, 1), at(2.2, 0.9), at(3, 3), at(9, -5)]])
    y = torch.tensor([[[1.0, -1], [2, 0], [4, 1], [5, 5], [7, 7]]])
    image = ConvolutionalEncoder(frame, 6, values=2).image((x, y))[0]
    expected = torch.zeros(3, 4, 4)
    expected[:, 0, 3] = torch.tensor([1, -1, 0.5])
    expected[:, 2, 1] = torch.tensor([3, 0.5, 1])  # the mean of two, and where most points are
    expected[:, 3, 3] = torch.tensor([5, 5, 0.5])
    expected[:, 3, 0] = torch.tensor([7, 7, 0.5])  # from outside the frame
    torch.testing.assert_close(image, expected)


def test_an_image_seen_whole_is_read_as_it_is(tmp_path):
    frame = pixel_frame(5, of_digit=False)
    images = np.random.default_rng(0).integers(0, 256, (1, 5, 5, 3), dtype=np.uint8)
    curriculum = image_curriculum(tmp_path, "cifar", pixels="none")
    x, y = ImageDataset(images, curriculum).task(0, 0)["context"]
    given = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
    read = ConvolutionalEncoder(frame, 6, values=3).image(given)[0]
    colours = torch.from_numpy(images[0] / 127.5 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(read[:3], colours)
    assert (read[3] == 1).all()


def test_contours_are_told_apart_although_all_values_are_zero():
    read = encoder()
    codes = read(contours(squares([(2, 2), (6, 5)])))
    assert (codes[0] - codes[1]).norm() > 0.1 * codes.norm()


def test_a_contour_moved_by_a_pixel_is_read_as_the_same_image_moved_by_a_pixel():
    images = encoder().image(contours(squares([(3, 4), (4, 4), (5, 5)])))
    torch.testing.assert_close(images[0].roll(1, dims=1), images[1])
    torch.testing.assert_close(images[1].roll((1, 1), dims=(1, 2)), images[2])


def test_a_convolutional_code_can_be_learned_through():
    read, given = encoder(pixels=9), context()
    read(given).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in read.parameters() if p.ndim > 1)
    assert PixelFrame(9, -0.5, 1 / 9) == read.frame


# Methods learn


@pytest.mark.parametrize("mode", ["dense", "levelset"])
@pytest.mark.parametrize("method", METHODS_2D)
def test_every_method_trains_on_digits_and_its_checkpoint_gives_the_same_fields(
    method, mode, tmp_path
):
    curriculum = image_curriculum(
        tmp_path,
        method=method,
        context_mode=mode,
        train_images=8,
        ScenesPerBatch=4,
        images_per_epoch=8,
        num_epochs=1,
    )
    assert train(curriculum, device=CPU).left_out == 0
    latest = tmp_path / "checkpoints" / "latest.pth"
    model = load_model(latest)
    saved = model.curriculum
    assert saved == curriculum
    images, _ = load_images(curriculum, "test")
    data = ImageDataset(images[:2], curriculum)
    batch = data.batch(0, 0)
    fields = model.adapt(batch["context"])
    x = batch["query"][0]
    prediction = model.predict(x, fields)
    assert prediction.shape == (2, x.shape[1], 1)
    assert prediction.isfinite().all()
    assert not torch.allclose(prediction[0], model.predict(x[[1, 0]], fields)[1])
    again = load_model(latest)
    torch.testing.assert_close(again.predict(x, again.adapt(batch["context"])), prediction)
    assert not torch.allclose(model.predict(x, model.adapt(batch["context"], 0)), prediction)


@pytest.mark.parametrize("mode", ["dense", "levelset"])
def test_metasdf_learns_to_fit_digits(mode, tmp_path):
    curriculum = image_curriculum(tmp_path, context_mode=mode, init_lr=5e-2)
    images, _ = load_images(curriculum, "train")
    data = ImageDataset(images[:16], {**curriculum, "images_per_epoch": None})
    unseen = ImageDataset(images[16:24], {**curriculum, "images_per_epoch": None}, 1)
    model = build_model(curriculum)
    optimizer = torch.optim.Adam(model.parameter_groups(3e-3, 0))
    before, _ = validate(model, unseen, CPU)
    for epoch in range(15):
        for batch in data.batches(epoch):
            loss, _, is_finite = outer_step(MetaGradients(model), optimizer, batch, 0.5)
            assert is_finite
            assert math.isfinite(loss)
    after, _ = validate(model, unseen, CPU)
    assert after < 0.3 * before


@pytest.mark.parametrize("method", METHODS_2D)
def test_every_method_takes_a_step_on_photographs(method, tmp_path):
    curriculum = image_curriculum(
        tmp_path, "cifar", method=method, image_size=8, pixels=40, network="siren"
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    data = ImageDataset(images, curriculum)
    model = build_model(curriculum, num_shapes=4)
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameter_groups(1e-3, 1e-3))
    batch = data.batch(0, 0)
    loss, score, is_finite = outer_step(MetaGradients(model), optimizer, batch, 0.5)
    assert is_finite
    assert math.isfinite(loss)
    assert math.isfinite(score)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    prediction = model.eval()(batch["context"], batch["query"][0])
    assert prediction.shape == (4, 40, 3)


def test_the_composite_loss_fits_digits_too(tmp_path):
    curriculum = image_curriculum(tmp_path, training_mode="multitask")
    shapes = digit_masks(load_digits("embedded", "train", "nowhere")[:4])
    batch = ImageDataset(shapes, curriculum).batch(0, 0)
    model = build_model(curriculum)
    loss, misclassified = meta_loss(model, batch)
    assert math.isfinite(loss.item())
    assert 0 <= misclassified <= 100
    assert model(batch["context"], batch["query"][0]).shape[-1] == 2


# Going on with a training


def test_an_auto_decoder_cannot_go_on_with_other_images(tmp_path):
    options = {"method": "autodecoder_concat", "images_per_epoch": 4, "ScenesPerBatch": 4}
    train(image_curriculum(tmp_path, train_images=8, num_epochs=1, **options), device=CPU)
    fewer = image_curriculum(tmp_path, train_images=6, num_epochs=2, **options)
    with pytest.raises(InputError, match="use the same data_source and train_images"):
        train(fewer, device=CPU, load=True)


def test_images_of_another_size_cannot_go_on(tmp_path):
    path = tmp_path / "images.npz"
    photographs = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(path, train_images=photographs)
    options = {"method": "cnn_concat", "data_source": path, "pixels": 20}
    train(image_curriculum(tmp_path, "cifar", image_size=8, num_epochs=1, **options), device=CPU)
    larger = image_curriculum(tmp_path, "cifar", image_size=40, **options)
    with pytest.raises(InputError, match="trained with image_size = 8, not 40"):
        train(larger, device=CPU, load=True)


def test_resumed_training_ends_at_the_same_weights(tmp_path):
    options = {"pixels": 64, "images_per_epoch": 8, "ScenesPerBatch": 4}
    whole, parts = (image_curriculum(tmp_path / n, num_epochs=2, **options) for n in "ab")
    train(whole, device=CPU)
    train({**parts, "num_epochs": 1}, device=CPU)
    train(parts, device=CPU, load=True)
    a, b = (load_checkpoint(tmp_path / n / "checkpoints" / "latest.pth")["model"] for n in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# Curriculums


NAMES = [
    name
    for name, value in runpy.run_path(str(FILE)).items()
    if isinstance(value, dict) and not name.startswith("_")
]


@pytest.mark.parametrize("name", NAMES)
def test_every_curriculum_is_complete_and_describes_a_model(name):
    curriculum = load_curriculum(name)
    assert curriculum.keys() == KEYS_2D.keys()
    assert curriculum["output_dir"] == str(ROOT / "output" / "2D" / name)
    assert curriculum["cache"] == str(ROOT / "data")
    model = build_model(curriculum, num_shapes=2)
    channels = 3 if curriculum["data"] == "photographs" else 1
    grid = torch.zeros(2, 5, 2)
    with torch.no_grad():
        values = model.predict(grid, model.eval().adapt((grid, torch.zeros(2, 5, channels)), 0))
    assert values.shape == (2, 5, channels)


def test_the_papers_experiments_have_its_values():
    mnist = load_curriculum("mnist")
    expected = {
        **{"network": "relu", "hidden_layers": 2, "hidden_features": 256, "num_meta_steps": 3},
        **{"lr_type": "global", "lr": 1e-4, "ScenesPerBatch": 16, "training_mode": "l2"},
        **{"outer_loss": "l2", "distance": "original", "query": "held_out", "pixels": None},
        **{"method": "metasdf", "first_order": False, "context_mode": "dense"},
    }
    assert {name: mnist[name] for name in expected} == expected
    levelset = load_curriculum("mnist_levelset")
    differs = {name for name in mnist if mnist[name] != levelset[name]}
    assert differs == {"context_mode", "output_dir"}
    cifar = load_curriculum("cifar_original")
    expected = {
        **{"network": "siren", "hidden_layers": 3, "hidden_features": 128, "w0": 30.0},
        **{"lr_type": "per_parameter", "init_lr": 1e-5, "lr": 5e-5, "ScenesPerBatch": 32},
        **{"num_meta_steps": 3, "query": "all", "pixels": None, "image_size": 32},
    }
    assert {name: cifar[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("keys", "curriculum", "message"),
    [
        (KEYS_2D, {"data": "digits", "train_split": "a.json"}, "did you mean .*train_images"),
        (KEYS_2D, {"data": "digits", "resolution": 64}, "unknown key 'resolution'"),
        (KEYS, {"data_source": "a", "train_images": 5}, "unknown key 'train_images'; did you mean"),
        (KEYS, {"data_source": "a", "test_image": 5}, "unknown key 'test_image'.*test_split"),
    ],
)
def test_keys_of_the_other_experiments_are_refused_with_near_matches(
    keys, curriculum, message, tmp_path
):
    with pytest.raises(InputError, match=message) as caught:
        complete(curriculum, "here", tmp_path)
    suggested = str(caught.value).partition("did you mean ")[2].rstrip("?").split(" or ")
    assert set(suggested) - {""} <= keys.keys()


@pytest.mark.parametrize(
    ("keys", "option", "near"),
    [
        (KEYS_2D, "--test_split", "--test_images"),
        (KEYS, "--test_images", "--test_split"),
        (KEYS_2D, "--ScenesPerBach", "--ScenesPerBatch"),
    ],
)
def test_options_of_the_other_experiments_are_refused_with_near_matches(keys, option, near):
    parser = CurriculumCommandLine()
    parser.add_curriculum_keys(keys)
    with pytest.raises(InputError, match=f"unknown argument '{option}'.*{near}"):
        parser.parse([option, "5"])


def test_photographs_have_no_contour(tmp_path):
    curriculum = image_curriculum(tmp_path, "cifar", image_size=4, context_mode="levelset")
    with pytest.raises(InputError, match="a photograph has no contour"):
        train(curriculum, device=CPU)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("overrides", [{"training_mode": "multitask"}, {"clamp": 0.1}])
def test_photographs_have_no_sign(overrides, tmp_path):
    with pytest.raises(InputError, match="photographs take l1 or l2, without the other two"):
        build_model(image_curriculum(tmp_path, "cifar", **overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"context_mode": "partial"}, "choose one of dense, levelset"),
        ({"method": "autodecoder"}, "choose one of metasdf, autodecoder_concat"),
        ({"distance": "rough"}, "choose one of exact, original"),
        ({"pixels": 1}, "too small"),
        ({"data": "meshes"}, "choose one of digits, photographs"),
    ],
)
def test_values_that_2d_does_not_know_are_refused(overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        image_curriculum(tmp_path, **overrides)
