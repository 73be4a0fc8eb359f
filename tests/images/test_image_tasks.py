"""Digits and photographs become tasks: distances, contours and pixels are what they say."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from conftest import image_curriculum, write_idx
from metasdf.data.pixels import pixel_frame, pixel_grid
from metasdf.errors import InputError
from metasdf.images.sources import load_digits
from metasdf.images.tasks import (
    PARTS,
    ImageDataset,
    boundary_segments,
    compose,
    digit_masks,
    load_images,
    signed_distance,
    split_images,
)

CURRICULUM = {
    "context_mode": "dense",
    "query": "held_out",
    "distance": "exact",
    "pixels": None,
    "query_pixels": None,
    "contour_points": 50,
    "images_per_epoch": None,
    "ScenesPerBatch": 4,
    "seed": 3,
}


def blob(seed, n=17):
    """A random shape, some of it cut off by the image's border."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(n, n)), 1.5)
    return noise > np.quantile(noise, 0.6)


def corner(n=9):
    inside = np.zeros((n, n), bool)
    inside[:4, :3] = True
    return inside


def single_pixel(n=9):
    inside = np.zeros((n, n), bool)
    inside[n // 2, n - 1] = True
    return inside


MASKS = {**{f"blob {seed}": blob(seed) for seed in range(6)}, "corner": corner()} | {
    "pixel": single_pixel(),
    "all but a pixel": ~single_pixel(),
    "even": blob(7, 24),
}


def sides(inside):
    """The unit segments between unlike neighbours, found pixel by pixel: [(end, end)]."""
    n, found = len(inside), []
    for i in range(n):
        for j in range(n):
            if j + 1 < n and inside[i, j] != inside[i, j + 1]:
                found.append(((i - 0.5, j + 0.5), (i + 0.5, j + 0.5)))
            if i + 1 < n and inside[i, j] != inside[i + 1, j]:
                found.append(((i + 0.5, j - 0.5), (i + 0.5, j + 0.5)))
    return np.array(found)


def distance_to_segments(points, ends):
    """From points (n, 2) to the nearest of segments (m, 2, 2): (n,)."""
    start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
    t = ((points[:, None] - start) * along).sum(-1) / (along**2).sum(-1)
    nearest = start + np.clip(t, 0, 1)[..., None] * along
    return np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)


def digit_shapes(count=3):
    return digit_masks(load_digits("embedded", "test", "nowhere")[:count], 32)


def dataset(images, stream=0, **overrides):
    return ImageDataset(images, {**CURRICULUM, **overrides}, stream)


def pixels_at(x, frame):
    """Numbers, row by row, of the pixels that coordinates (n, 2) stand for."""
    index = (x.astype(np.float64) - frame.start) / frame.spacing
    assert np.abs(index - index.round()).max() < 1e-4
    row, column = index.round().astype(int).T
    return row * frame.pixels + column


# Distances


@pytest.mark.parametrize("name", MASKS)
def test_exact_distance_is_that_to_the_nearest_side_between_unlike_pixels(name):
    inside = MASKS[name]
    n = len(inside)
    centres = np.stack(np.meshgrid(*[np.arange(n)] * 2, indexing="ij"), -1).reshape(-1, 2)
    brute = distance_to_segments(centres, sides(inside)).reshape(n, n)
    distance = signed_distance(inside)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(np.abs(distance) * n, brute, atol=1e-5)
    assert np.array_equal(distance < 0, inside)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("convention", ["exact", "original"])
def test_inside_and_outside_exchanged_gives_the_negative(name, convention):
    inside = MASKS[name]
    np.testing.assert_array_equal(
        signed_distance(~inside, convention), -signed_distance(inside, convention)
    )


def test_the_boundary_is_every_side_between_unlike_pixels_once():
    for inside in MASKS.values():
        ours = {tuple(map(tuple, ends)) for ends in boundary_segments(inside)}
        assert len(ours) == len(boundary_segments(inside))
        assert ours == {tuple(map(tuple, ends)) for ends in sides(inside)}


def test_distance_beside_a_straight_edge_starts_at_half_a_pixel():
    inside = np.zeros((8, 8), bool)
    inside[:, :3] = True
    expected = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5]) / 8
    np.testing.assert_allclose(signed_distance(inside), np.tile(expected, (8, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", MASKS)
def test_original_distance_is_the_difference_of_two_transforms_and_never_below_a_pixel(name):
    inside = MASKS[name]
    n = len(inside)
    distance = signed_distance(inside, "original")
    reference = distance_transform_edt(~inside) - distance_transform_edt(inside)
    np.testing.assert_allclose(distance * n, reference, rtol=1e-6)
    assert np.abs(distance).min() * n >= 1 - 1e-6
    excess = n * (np.abs(distance) - np.abs(signed_distance(inside)))
    assert excess.min() > 0.49
    assert excess.max() < 1


@pytest.mark.parametrize("convention", ["exact", "original"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_an_image_without_boundary_is_refused(everywhere, convention):
    with pytest.raises(InputError, match="no boundary"):
        signed_distance(np.full((8, 8), everywhere), convention)


# Ink


@pytest.mark.parametrize("pixels", [28, 64, 90])
def test_ink_is_where_a_digit_enlarged_between_its_pixels_is_half_dark(pixels):
    digits = load_digits("embedded", "test", "nowhere")[:20]
    inside = digit_masks(digits, pixels)
    assert inside.dtype == bool
    assert inside.shape == (20, pixels, pixels)
    for digit, mask in zip(digits, inside, strict=True):
        large = Image.fromarray(digit.astype(np.float32)).resize(
            (pixels, pixels), Image.Resampling.BILINEAR
        )
        assert ((np.asarray(large) >= 127.5) != mask).mean() < 1e-3


def test_ink_of_many_digits_is_that_of_each():
    digits = np.tile(load_digits("embedded", "test", "nowhere")[:7], (150, 1, 1))
    inside = digit_masks(digits, 32)
    assert np.array_equal(inside[700:707], digit_masks(digits[:7], 32))
    assert np.array_equal(inside[-1], inside[6])


# Coordinates


def test_digits_reach_from_minus_a_half_to_short_of_a_half():
    grid = pixel_grid(pixel_frame(64, of_digit=True)).reshape(64, 64, 2)
    assert grid[0, 0].tolist() == [-0.5, -0.5]
    assert grid[-1, -1].tolist() == [0.5 - 1 / 64] * 2
    assert grid[3, 5].tolist() == [3 / 64 - 0.5, 5 / 64 - 0.5]  # row, column


def test_photographs_reach_from_minus_one_to_one():
    grid = pixel_grid(pixel_frame(5, of_digit=False)).reshape(5, 5, 2)
    assert grid[:, 0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert grid[0, :, 1].tolist() == [-1, -0.5, 0, 0.5, 1]


# Contours


def test_contour_points_lie_on_the_boundary():
    shapes = digit_shapes()
    data = dataset(shapes)
    for index, inside in enumerate(shapes):
        x = data.contour(index, 200, np.random.default_rng(0))
        assert x.dtype == np.float32
        points = (x.astype(np.float64) + 0.5) * len(inside)
        assert distance_to_segments(points, sides(inside)).max() < 1e-5


@pytest.mark.parametrize("rounds", [0.5, 1, 3, 3.5])
def test_contour_points_fall_on_each_side_as_often(rounds):
    data = dataset(digit_shapes(1))
    ends = boundary_segments(data.images[0])
    count = round(rounds * len(ends))
    x = data.contour(0, count, np.random.default_rng(0))
    assert x.shape == (count, 2)
    points = (x.astype(np.float64) + 0.5) * 32
    middle = ends.mean(axis=1)
    nearest = np.abs(points[:, None] - middle).max(-1).argmin(1)
    times = np.bincount(nearest, minlength=len(ends))
    assert times.min() >= int(rounds)
    assert times.max() <= int(np.ceil(rounds))


def test_contour_points_lie_anywhere_along_a_side():
    data = dataset(digit_shapes(1))
    x = (data.contour(0, 4000, np.random.default_rng(0)).astype(np.float64) + 0.5) * 32
    part = (x - 0.5) % 1
    along = part[(part > 1e-4) & (part < 1 - 1e-4)]
    assert np.abs(np.histogram(along, 4, (0, 1))[0] / len(along) - 0.25).max() < 0.05


# Tasks


@pytest.mark.parametrize("pixels", [None, 100, 101, 10_000])
def test_held_out_context_and_query_are_apart_and_together_what_was_drawn(pixels):
    data = dataset(digit_shapes(), pixels=pixels)
    task = data.task(1, epoch=0)
    (x, y), (query_x, query_y) = task["context"], task["query"]
    frame = pixel_frame(32, of_digit=True)
    context, query = pixels_at(x, frame), pixels_at(query_x, frame)
    drawn = min(pixels or 1024, 1024)
    assert len(context) == drawn // 2
    assert len({*context, *query}) == len(context) + len(query) == drawn
    true = signed_distance(data.images[1]).reshape(-1, 1)
    assert np.array_equal(y, true[context])
    assert np.array_equal(query_y, true[query])
    assert x.dtype == y.dtype == query_x.dtype == query_y.dtype == np.float32


def test_query_all_has_the_drawn_pixels_as_context_too():
    data = dataset(digit_shapes(), pixels=100, query="all")
    task = data.task(0, epoch=0)
    for i in range(2):
        assert np.array_equal(task["context"][i], task["query"][i])
    assert len(set(pixels_at(task["context"][0], pixel_frame(32, True)))) == 100


@pytest.mark.parametrize(
    "options", [{}, {"query": "all"}, {"context_mode": "levelset"}, {"pixels": None}]
)
def test_fewer_query_pixels_are_some_of_the_query_beside_the_same_context(options):
    options = {"pixels": 100, **options}
    whole = dataset(digit_shapes(), **options).task(0, 0)
    fewer = dataset(digit_shapes(), query_pixels=20, **options).task(0, 0)
    for i in range(2):
        assert np.array_equal(fewer["context"][i], whole["context"][i])
        assert np.array_equal(fewer["query"][i], whole["query"][i][:20])
    many = dataset(digit_shapes(), query_pixels=9999, **options).task(0, 0)
    assert np.array_equal(many["query"][0], whole["query"][0])


def test_levelset_context_is_the_contour_with_zeros_and_all_drawn_pixels_are_query():
    data = dataset(digit_shapes(), context_mode="levelset", pixels=100)
    task = data.task(2, epoch=0)
    x, y = task["context"]
    assert x.shape == (50, 2)
    assert y.shape == (50, 1)
    assert not y.any()
    points = (x.astype(np.float64) + 0.5) * 32
    assert distance_to_segments(points, sides(data.images[2])).max() < 1e-5
    query = pixels_at(task["query"][0], pixel_frame(32, True))
    assert len(set(query)) == 100
    assert np.array_equal(task["query"][1], data.values(2)[query])


def test_the_distance_convention_is_the_curriculums():
    shapes = digit_shapes()
    for convention in ("exact", "original"):
        values = dataset(shapes, distance=convention).values(0)
        assert np.array_equal(values[:, 0], signed_distance(shapes[0], convention).ravel())


def test_a_photographs_values_are_its_colours_in_minus_one_to_one():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 1] = 255, 0, 51
    data = dataset(images, query="all")
    expected = [[-1, -1, -1], [1, -1, -0.6], [-1, -1, -1], [-1, -1, -1]]
    np.testing.assert_allclose(data.values(0), expected, atol=1e-6)
    x, y = data.task(0, 0)["context"]
    top_right = np.flatnonzero((x == [-1, 1]).all(axis=1))
    np.testing.assert_allclose(y[top_right], [expected[1]], atol=1e-6)


@pytest.mark.parametrize("mode", ["dense", "levelset"])
def test_tasks_are_the_same_whenever_drawn_and_others_in_another_epoch_seed_or_stream(mode):
    options = {"context_mode": mode, "pixels": 100}
    shapes = digit_shapes()
    x = dataset(shapes, **options).task(1, 5)["context"][0]
    again = dataset(shapes, **options)
    again.task(0, 5)
    assert np.array_equal(again.task(1, 5)["context"][0], x)
    others = [
        again.task(1, 6),
        dataset(shapes, seed=4, **options).task(1, 5),
        dataset(shapes, stream=1, **options).task(1, 5),
    ]
    for other in others:
        assert not np.array_equal(other["context"][0], x)


def test_an_epoch_takes_every_image_once_in_batches():
    data = dataset(np.tile(digit_shapes(3), (3, 1, 1)), pixels=20)
    batches = list(data.batches(epoch=0))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 1]
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(9))
    assert batches[0]["context"][0].shape == (4, 10, 2)
    assert batches[0]["query"][1].shape == (4, 10, 1)
    again = list(data.batches(epoch=0))
    assert all(
        torch.equal(a["query"][0], b["query"][0]) for a, b in zip(batches, again, strict=True)
    )


def test_images_per_epoch_takes_so_many_different_ones_and_others_each_time():
    data = dataset(np.tile(digit_shapes(3), (3, 1, 1)), pixels=20, images_per_epoch=5)
    assert data.batches_per_epoch == 2
    epochs = [torch.cat([b["index"] for b in data.batches(e)]).tolist() for e in range(12)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    assert set().union(*epochs) == set(range(9))
    assert dataset(digit_shapes(3), images_per_epoch=50).per_epoch == 3


# Composed digits


def area(digits):
    return digits.astype(float).sum(axis=(1, 2))


def test_every_kind_of_composed_digits_is_as_many():
    digits = load_digits("embedded", "test", "nowhere")[:12]
    for part in PARTS:
        images = compose(digits, part)
        assert images.dtype == np.uint8
        side = 56 if part in ("double", "triple") else 28
        assert images.shape == (12, side, side), part
    assert compose(digits, "test") is digits


def test_rotated_digits_keep_their_ink_but_turn_by_an_eighth_or_more():
    digits = load_digits("embedded", "test", "nowhere")[:40]
    turned = compose(digits, "rotated")
    assert np.array_equal(turned, compose(digits, "rotated"))
    assert np.abs(area(turned) / area(digits) - 1).max() < 0.1
    corner = np.zeros((200, 21, 21), np.uint8)
    corner[:, 10, 14:19] = 255  # a ray to the right of the middle
    rays = compose(corner, "rotated").astype(float)
    row, column = np.mgrid[-10:11, -10:11]
    angle = np.arctan2((rays * row).sum((1, 2)), (rays * column).sum((1, 2)))
    degrees = np.degrees(angle) % 360
    assert degrees.min() > 44
    assert degrees.max() < 316
    assert np.histogram(degrees, 6, (45, 315))[0].min() > 10


def test_double_and_triple_digits_hold_a_digit_and_the_next_ones_half_as_large():
    digits = load_digits("embedded", "test", "nowhere")[:12]
    double, triple = compose(digits, "double"), compose(digits, "triple")
    following, second = np.roll(digits, -1, axis=0), np.roll(digits, -2, axis=0)
    np.testing.assert_allclose(area(double), area(digits) + area(following))
    np.testing.assert_allclose(area(triple), area(digits) + area(following) + area(second))
    assert np.array_equal(double[:, 14:42, :28], digits)
    assert np.array_equal(double[:, 14:42, 28:], following)
    share = digit_masks(digits).mean(axis=(1, 2))
    expected = (share + np.roll(share, -1)) / 4
    assert np.abs(digit_masks(double).mean(axis=(1, 2)) / expected - 1).max() < 0.15
    expected += np.roll(share, -2) / 4
    assert np.abs(digit_masks(triple).mean(axis=(1, 2)) / expected - 1).max() < 0.15


# What a curriculum loads


def test_digits_without_ink_are_left_out_reported_and_counted(tmp_path, caplog):
    digits = load_digits("embedded", "train", "nowhere")[:6].copy()
    digits[2], digits[4] = 0, 255
    write_idx(tmp_path / "train-images-idx3-ubyte", digits)
    curriculum = image_curriculum(tmp_path / "out", data_source=tmp_path)
    images, left_out = load_images(curriculum, "train")
    assert left_out == 2
    assert np.array_equal(images, digit_masks(digits[[0, 1, 3, 5]]))
    error = caplog.messages
    assert [line.split(":")[1].strip() for line in error] == ["digit 2 (train)", "digit 4 (train)"]


def test_a_source_without_any_ink_is_an_input_error(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8))
    curriculum = image_curriculum(tmp_path / "out", data_source=tmp_path)
    with pytest.raises(InputError, match="no digit has ink"):
        load_images(curriculum, "train")


def test_every_part_has_as_many_images_as_the_curriculum_says(tmp_path):
    curriculum = image_curriculum(tmp_path)
    for part in PARTS:
        images, left_out = load_images(curriculum, part)
        assert images.shape == (8, 64, 64)
        assert left_out == 0
    photographs = image_curriculum(tmp_path, "cifar", image_size=8)
    assert load_images(photographs, "test")[0].shape == (8, 8, 8, 3)


def test_the_last_images_are_to_validate_on_the_first_to_train_on(tmp_path):
    curriculum = image_curriculum(tmp_path, train_images=5, val_images=3)
    training, validation = split_images(curriculum, np.arange(10))
    assert training.tolist() == [0, 1, 2, 3, 4]
    assert validation.tolist() == [7, 8, 9]
    everything = {**curriculum, "train_images": None}
    assert split_images(everything, np.arange(10))[0].tolist() == list(range(7))
    few = [part.tolist() for part in split_images(curriculum, np.arange(3))]
    assert few == [[0, 1], [2]]
    assert [part.tolist() for part in split_images(curriculum, np.arange(1))] == [[0], [0]]
