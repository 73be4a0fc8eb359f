"""DeepSDF's files become tasks: read in place, drawn fairly, repeatable; bad ones are named."""

import json
import os
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from conftest import shared, write_sphere
from metasdf.data import formats as formats_module
from metasdf.data.formats import write_points
from metasdf.data.names import ShapeName, read_split
from metasdf.data.samples import Samples
from metasdf.data.tasks import UNKNOWN, SDFDataset, check_shapes, draw_task, in_frame_of_context
from metasdf.errors import InputError
from metasdf.geometry.normalisation import MARGIN, Normalisation
from metasdf.losses import IGNORED_DISTANCE

CURRICULUM = {
    "context_mode": "dense",
    "query": "all",
    "SDFSamplesPerScene": 64,
    "LevelsetSamplesPerScene": 32,
    "ScenesPerBatch": 4,
    "seed": 3,
}
RADII = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.7, "e": 0.45, "f": 0.65}


def name(instance="a"):
    return ShapeName("made", "spheres", instance)


def numbered_rows(count, sign):
    """Rows whose x tells them apart."""
    ids = np.arange(count, dtype=np.float32)
    return np.stack([ids, 0 * ids, 0 * ids, sign * (ids + 1)], axis=1)


def write_npz(folder, pos, neg, save=np.savez, instance="a", part="SdfSamples"):
    path = name(instance).file(folder, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, pos=pos, neg=neg)
    return path


def samples_of(folder, pos, neg, save=np.savez):
    write_npz(folder, pos, neg, save)
    return Samples(folder, name())


def dataset(spheres, names="abcdef", stream=0, **overrides):
    curriculum = {**CURRICULUM, **overrides}
    shapes = [name(instance) for instance in names]
    usable, problems = check_shapes(spheres, shapes, curriculum["context_mode"])
    assert not problems
    return SDFDataset(usable, curriculum, stream)


def same(a, b):
    return all(
        np.array_equal(a[part][i], b[part][i]) for part in ("context", "query") for i in range(2)
    )


def rng(seed=0):
    return np.random.default_rng(seed)


# Reading


def test_uncompressed_arrays_are_mapped_and_never_read_whole(tmp_path):
    samples = samples_of(tmp_path, numbered_rows(5000, 1), numbered_rows(300, -1))
    for rows, count in zip(samples.signed, (5000, 300), strict=True):
        assert len(rows) == count
        assert rows.base.nbytes == next(tmp_path.rglob("*.npz")).stat().st_size
    assert np.isfinite(samples.draw_signed(100, rng())).all()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists mappings")
def test_a_mapping_keeps_no_file_open(tmp_path):
    samples = samples_of(tmp_path, numbered_rows(5000, 1), numbered_rows(300, -1))
    before = len(os.listdir("/proc/self/fd"))
    _ = samples.signed
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) == before


def test_compressed_arrays_are_read_once(tmp_path, monkeypatch):
    samples = samples_of(tmp_path, numbered_rows(50, 1), numbered_rows(30, -1), np.savez_compressed)
    read, calls = formats_module.map_npz, []
    monkeypatch.setattr(formats_module, "map_npz", lambda *a: calls.append(a) or read(*a))
    drawn = [samples.draw_signed(20, rng()) for _ in range(5)]
    assert len(calls) == 2
    mapped = samples_of(tmp_path, numbered_rows(50, 1), numbered_rows(30, -1))
    assert np.array_equal(drawn[4], mapped.draw_signed(20, rng()))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("convert", [np.asfortranarray, lambda a: a.astype(">f8"), lambda a: a])
def test_every_layout_of_numbers_gives_the_same_rows(tmp_path, save, convert):
    pos, neg = rng(1).normal(size=(2, 40, 4)).astype(np.float32)
    samples = samples_of(tmp_path, convert(pos), convert(neg), save)
    for read, written in zip(samples.signed, (pos, neg), strict=True):
        assert np.array_equal(read, written)
    assert samples.draw_signed(10, rng()).dtype == np.float32


def test_a_split_may_have_more_shapes_than_a_process_may_open_files(tmp_path):
    names = [name(str(i)) for i in range(120)]
    for shape in names:
        write_npz(tmp_path, numbered_rows(5, 1), numbered_rows(5, -1), instance=shape.instance)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    already_open = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (already_open + 60, limits[1]))
    try:
        usable, problems = check_shapes(tmp_path, names, "dense")
        assert not problems
        for samples in usable:
            samples.draw_signed(4, rng())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# Drawing


def test_half_of_the_rows_come_from_each_side_with_replacement(tmp_path):
    samples = samples_of(tmp_path, numbered_rows(50, 1), numbered_rows(3, -1))
    rows = samples.draw_signed(100, rng())
    pos, neg = rows[rows[:, 3] > 0], rows[rows[:, 3] < 0]
    assert len(pos) == len(neg) == 50
    assert set(neg[:, 0]) == {0, 1, 2}
    assert len(set(pos[:, 0])) < 50  # 50 of 50 without repetition has a chance of 1e-21
    assert len(samples.draw_signed(101, rng())) == 101


def test_rows_that_are_not_finite_are_never_drawn_and_the_others_equally_often(tmp_path):
    pos = numbered_rows(10, 1)
    pos[[0, 3, 9], [0, 3, 1]] = np.nan
    pos[[1, 5, 6], 2] = [np.inf, -np.inf, np.nan]
    rows = samples_of(tmp_path, pos, numbered_rows(10, -1)).draw_signed(8000, rng())
    assert np.isfinite(rows).all()
    ids, counts = np.unique(rows[rows[:, 3] > 0, 0], return_counts=True)
    assert list(ids) == [2, 4, 7, 8]
    assert counts == pytest.approx(1000, abs=150)


def test_dense_context_is_a_random_half_of_the_query(tmp_path):
    samples = samples_of(tmp_path, numbered_rows(9000, 1), numbered_rows(9000, -1))

    def distances(query, seed=0):
        task = draw_task(samples, "dense", 200, 0, query, rng(seed))
        assert all(x.shape[1] == 3 and y.shape[1] == 1 for x, y in task.values())
        assert all(np.array_equal(x[:, 0] + 1, abs(y[:, 0])) for x, y in task.values())
        return [sorted(task[part][1][:, 0]) for part in ("context", "query")]

    context, query = distances("all")
    assert len(context) == 100
    assert len(query) == 200
    assert 25 < sum(d > 0 for d in context) < 75  # neither side is left out
    assert distances("all", seed=1)[0] != context


def test_held_out_queries_share_no_row_of_the_file_with_the_context(tmp_path):
    samples = samples_of(tmp_path, numbered_rows(70, 1), numbered_rows(50, -1))
    task = draw_task(samples, "dense", 400, 0, "held_out", rng())
    context, query = (task[part][1][:, 0].tolist() for part in ("context", "query"))
    assert len(context) == len(query) == 200
    assert not set(context) & set(query)
    assert sum(d > 0 for d in context) == sum(d > 0 for d in query) == 100
    assert len(set(context) | set(query)) > 110


@pytest.mark.parametrize("count", [32, 30_000, 40_000])
def test_levelset_context_is_surface_points_at_distance_zero(spheres, count):
    task = draw_task(Samples(spheres, name("c")), "levelset", 64, count, "all", rng())
    x, y = task["context"]
    assert x.shape == (count, 3)
    assert np.linalg.norm(x, axis=1) == pytest.approx(0.6, abs=1e-5)
    assert not y.any()
    assert len(np.unique(x, axis=0)) == count or count > 30_000
    x, y = task["query"]
    assert y[:, 0] == pytest.approx(np.linalg.norm(x, axis=1) - 0.6, abs=1e-5)
    assert (y > 0).sum() == (y < 0).sum() == 32


def test_partial_context_is_the_points_of_a_scan(tmp_path):
    write_sphere(tmp_path, "a", 0.5, count=500)
    scan = rng().uniform([0.9, 1.9, 3.1], [1.1, 2.1, 3.2], (100, 3))
    write_points(name().file(tmp_path, "PartialSamples"), scan)
    x, y = dataset(tmp_path, "a", context_mode="partial").batch(0, 0)["context"]
    assert x.shape == (1, 32, 3)
    assert not y.any()
    distance, _ = cKDTree((scan - [1, 2, 3]) * 2).query(x[0].numpy())
    assert distance.max() < 1e-5


def test_the_normalised_frame_is_original_plus_offset_times_scale(spheres):
    normalisation = Samples(spheres, name()).normalisation
    assert normalisation.scale == 2
    assert list(normalisation.offset) == [-1, -2, -3]
    original = np.array([[1.5, 2.0, 2.0]])
    assert np.array_equal(normalisation.apply(original), [[1.0, 0.0, -2.0]])
    assert np.array_equal(normalisation.invert(np.array([[1.0, 0.0, -2.0]])), original)
    points = rng().normal(size=(20, 3))
    there = Normalisation(np.array([0.1, -7, 2]), 0.3).apply(points)
    assert Normalisation(np.array([0.1, -7, 2]), 0.3).invert(there) == pytest.approx(
        points, abs=1e-5
    )


# Repeatability


def test_a_shapes_numbers_do_not_depend_on_the_order_of_calls(spheres):
    first, second = dataset(spheres), dataset(spheres)
    forward = {(e, i): first.task(i, e) for e in range(3) for i in range(6)}
    backward = {(e, i): second.task(i, e) for e in (2, 0, 1) for i in (5, 2, 0, 1, 4, 3)}
    assert all(same(forward[key], backward[key]) for key in forward)


def test_shapes_epochs_seeds_and_streams_draw_different_numbers(spheres):
    data = dataset(spheres)
    task = data.task(0, 0)
    assert not same(task, data.task(1, 0))
    assert not same(task, data.task(0, 1))
    assert not same(task, dataset(spheres, seed=4).task(0, 0))
    assert not same(task, dataset(spheres, stream=1).task(0, 0))


def test_a_shapes_numbers_do_not_depend_on_which_others_there_are(spheres):
    data = dataset(spheres)
    fewer = SDFDataset(data.samples[1:], data.curriculum)
    assert same(data.task(1, 0), fewer.task(0, 0))


def radii(batch):
    return [round(float(r), 3) for r in batch["context"][0].norm(dim=-1).mean(dim=1)]


def test_an_epoch_visits_every_shape_once_in_an_order_of_its_own(spheres):
    data = dataset(spheres, context_mode="levelset")
    assert data.batches_per_epoch == 2
    orders = []
    for epoch in range(3):
        batches = list(data.batches(epoch))
        assert [len(b["context"][0]) for b in batches] == [4, 2]
        orders.append([r for batch in batches for r in radii(batch)])
        assert sorted(orders[-1]) == sorted(RADII.values())
    assert orders[0] != orders[1] or orders[1] != orders[2]


def test_batches_are_the_numbered_batches_as_float32_tensors(spheres):
    batches = list(dataset(spheres).batches(5))
    assert len(batches) == 2
    for number, batch in enumerate(batches):
        assert same(batch, dataset(spheres).batch(5, number))
        assert batch["context"][0].shape == (4 - 2 * number, 32, 3)
        assert batch["query"][1].shape == (4 - 2 * number, 64, 1)
        parts = batch["context"] + batch["query"]
        assert all(t.dtype == torch.float32 for t in parts)


def test_a_batch_says_which_shapes_it_holds_and_when(spheres):
    data = dataset(spheres)
    for batch in data.batches(5):
        assert batch["epoch"] == 5
        assert batch["index"].dtype == torch.int64
        for row, index in enumerate(batch["index"]):
            x, y = data.task(index, 5)["context"]
            assert np.array_equal(batch["context"][0][row], x)
            assert np.array_equal(batch["context"][1][row], y)


def test_a_shape_that_breaks_during_training_stops_it_by_name(tmp_path):
    write_sphere(tmp_path, "a", 0.5, count=500)
    data = SDFDataset([Samples(tmp_path, name())], CURRICULUM)
    name().file(tmp_path, "SdfSamples").unlink()
    with pytest.raises(InputError, match=r"a\.npz: file not found"):
        list(data.batches(0))


# Shapes that cannot be used


class Bomb:
    """Unpickling this leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def overwrite(make):
    return lambda path: path.write_bytes(make(path.read_bytes()))


def rewrite(**arrays):
    return lambda path: np.savez(path, **arrays)


def header(count, end="}"):
    """Of an array of `count` rows, of which 100 follow."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, 4), {end}\n".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def archive(start, compression=zipfile.ZIP_STORED):
    def damage(path):
        with zipfile.ZipFile(path, "w", compression) as file:
            for array in ("pos.npy", "neg.npy"):
                file.writestr(array, start + numbered_rows(100, 1).tobytes())

    return damage


def garble(path):
    """A first compressed block of a kind that does not exist."""
    np.savez_compressed(path, pos=OK, neg=OK)
    data = bytearray(path.read_bytes())
    start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    data[start] |= 6
    path.write_bytes(data)


def encrypt(path):
    """The bit that says so in the first local and central headers."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)


OK = numbered_rows(5, 1)
DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": overwrite(lambda data: b""),
    "truncated": overwrite(lambda data: data[: len(data) // 2]),
    "broken magic": overwrite(lambda data: data.replace(b"\x93NUMPY", b"\x00NUMPY")),
    "broken header": archive(header(100, end="(")),
    "encrypted": encrypt,
    "garbled": garble,
    "rows of the next array": archive(header(104)),
    "endless": archive(header(10**13), zipfile.ZIP_DEFLATED),
    "no neg": rewrite(pos=OK),
    "no rows": rewrite(pos=OK, neg=OK[:0]),
    "all NaN": rewrite(pos=OK, neg=OK * np.nan),
    "beyond float32": rewrite(pos=OK, neg=OK.astype(np.float64) * 1e300 + 1e300),
    "three columns": rewrite(pos=OK, neg=OK[:, :3]),
    "integers": rewrite(pos=OK.astype(int), neg=OK),
    "text numbers": rewrite(pos=OK, neg=OK.astype(str)),
}


def test_the_archives_made_here_are_well_formed_but_for_their_damage(tmp_path):
    path = write_npz(tmp_path, OK, OK)
    archive(header(100))(path)
    assert np.array_equal(Samples(tmp_path, name()).signed[1], numbered_rows(100, 1))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_unusable_samples_are_named_and_never_replaced_by_a_neighbour(tmp_path, damage):
    for instance, sign in (("a", 1), ("b", 2), ("c", 3)):
        write_npz(tmp_path, sign * OK, -sign * OK, instance=instance)
    path = name("b").file(tmp_path, "SdfSamples")
    damage(path)
    usable, problems = check_shapes(tmp_path, [name(i) for i in "abc"], "dense")
    assert [s.shape.instance for s in usable] == ["a", "c"]
    assert list(problems) == ["made/spheres/b"]
    assert problems["made/spheres/b"].startswith(f"{path}: ")
    batch = SDFDataset(usable, CURRICULUM).batch(0, 0)
    assert len(batch["context"][0]) == 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pickled_objects_are_refused_and_never_executed(tmp_path, save):
    trace = tmp_path / "executed"
    bomb = np.array([[Bomb(trace)] * 4], dtype=object)
    write_npz(tmp_path, bomb, OK, save)
    with pytest.raises(
        InputError, match=r"none of 1 shapes can be used; the first: .*a\.npz.*[oO]bject"
    ):
        check_shapes(tmp_path, [name()], "dense")
    assert not trace.exists()
    np.load(tmp_path / "SdfSamples/made/spheres/a.npz", allow_pickle=True)["pos"]
    assert trace.exists()  # the trap itself works


def ply(count, rows, kind="ascii"):
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    header = f"ply\nformat {kind} 1.0\nelement vertex {count}\n{axes}end_header\n"
    return lambda path: path.write_bytes(header.encode() + rows)


SURFACE, NORMALISATION = "SurfaceSamples", "NormalizationParameters"
ZERO, ONE = np.zeros(3), np.ones(1)
COMPANIONS = {
    "surface missing": (SURFACE, lambda path: path.unlink()),
    "surface truncated": (SURFACE, ply(9, bytes(40), "binary_little_endian")),
    "surface of text": (SURFACE, overwrite(lambda data: b"no PLY file at all")),
    "surface without points": (SURFACE, ply(0, b"")),
    "surface not finite": (SURFACE, ply(1, b"nan 0 0\n")),
    "normalisation missing": (NORMALISATION, lambda path: path.unlink()),
    "no scale": (NORMALISATION, rewrite(offset=ZERO)),
    "offset of two numbers": (NORMALISATION, rewrite(offset=ZERO[:2], scale=ONE)),
    "scale zero": (NORMALISATION, rewrite(offset=ZERO, scale=0 * ONE)),
    "scale NaN": (NORMALISATION, rewrite(offset=ZERO, scale=np.nan * ONE)),
    "scale infinite": (NORMALISATION, rewrite(offset=ZERO, scale=np.inf * ONE)),
    "offset NaN": (NORMALISATION, rewrite(offset=np.nan * ZERO, scale=ONE)),
    "offset of text": (NORMALISATION, rewrite(offset=np.array(["a", "b", "c"]), scale=ONE)),
}


@pytest.mark.parametrize(("where", "damage"), COMPANIONS.values(), ids=COMPANIONS.keys())
def test_what_the_context_needs_is_checked_before_training(spheres, tmp_path, where, damage):
    shutil.copytree(spheres, tmp_path, dirs_exist_ok=True)
    path = name("b").file(tmp_path, where)
    damage(path)
    shapes = [name(i) for i in "abc"]
    assert len(check_shapes(tmp_path, shapes, "dense")[0]) == 3
    usable, problems = check_shapes(tmp_path, shapes, "levelset")
    assert [s.shape.instance for s in usable] == ["a", "c"]
    assert str(path) in problems["made/spheres/b"]


def test_a_missing_data_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder; preprocess\.py makes one"):
        check_shapes(tmp_path / "nowhere", [name()], "dense")


# Splits


def test_a_split_lists_its_shapes_in_file_order(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"d": {"z": ["2", "1"], "a": ["x.y"]}, "b": {"c": ["ü"]}}))
    assert [str(s) for s in read_split(path)] == ["d/z/2", "d/z/1", "d/a/x.y", "b/c/ü"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"d": ["a"]}',
        '{"d": {"c": 5}}',
        '{"d": {"c": null}}',
        '{"d": {"c": "abc"}}',
        '{"d": {"c": {"a": 1}}}',
        '{"d": {"c": [1]}}',
        '{"d": {"c": [["a"]]}}',
        '{"d": {"c": []}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:24],
)
def test_a_malformed_split_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"split\.json: "):
        read_split(path)


@pytest.mark.parametrize("bad", ["../x", "..", ".", "", "a/b", "/etc/passwd", "a\\b", "a\0b"])
@pytest.mark.parametrize("place", range(3))
def test_a_split_cannot_lead_out_of_the_data_folder(tmp_path, bad, place):
    dataset, category, instance = (bad if i == place else "ok" for i in range(3))
    path = tmp_path / "split.json"
    path.write_text(json.dumps({dataset: {category: ["fine", instance]}}))
    with pytest.raises(InputError, match="cannot name a shape's file"):
        read_split(path)


def test_a_missing_split_says_where_splits_come_from(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: split file not found; preprocess\.py"):
        read_split(tmp_path / "none.json")


# Real data


def planes():
    folder = shared("data", "shapenet_planes8")
    files = sorted(folder.glob("SdfSamples/*/*/*.npz"))
    return folder, [ShapeName(*file.with_suffix("").parts[-3:]) for file in files]


def test_real_planes_are_read_and_their_nan_rows_left_out():
    folder, shapes = planes()
    usable, problems = check_shapes(folder, shapes, "dense")
    assert len(usable) == 8
    assert not problems
    with_nan = [s for s in usable if not np.isfinite(s.signed[1]).all()]
    assert len(with_nan) == 3
    curriculum = {**CURRICULUM, "SDFSamplesPerScene": 100_000, "ScenesPerBatch": 3}
    (batch,) = SDFDataset(with_nan, curriculum).batches(0)
    assert all(t.isfinite().all() for t in batch["context"] + batch["query"])
    assert ((batch["query"][1] > 0).sum(dim=1) == 50_000).all()


def test_surface_and_samples_of_a_real_plane_lie_in_one_frame():
    folder, shapes = planes()
    samples = Samples(folder, shapes[0])
    surface = samples.surface()
    assert np.linalg.norm(surface, axis=1).max() == pytest.approx(1 / 1.03, abs=0.01)
    rows = samples.draw_signed(1000, rng())
    nearest, _ = cKDTree(surface).query(rows[:, :3])
    assert np.median(np.abs(nearest - np.abs(rows[:, 3]))) < 0.003


def test_a_task_in_the_frame_of_its_context_keeps_its_distances_true(spheres):
    rows = dataset(spheres, context_mode="levelset").rows(2, 0)
    half = {**rows, "context": rows["context"][rows["context"][:, 0] > 0]}
    half["query"] = np.vstack([half["query"], [[0, 0, 0, UNKNOWN]]]).astype(np.float32)
    moved = in_frame_of_context(half)
    low, high = (f(moved["context"][:, :3], axis=0) for f in (np.min, np.max))
    np.testing.assert_allclose(low + high, 0, atol=1e-6)
    reach = np.linalg.norm(moved["context"][:, :3], axis=1).max()
    assert reach == pytest.approx(1 / MARGIN, rel=1e-5)
    # The sphere, of radius 0.6, is now larger and lies elsewhere.
    scale = np.ptp(moved["context"][:, 1]) / np.ptp(half["context"][:, 1])
    frame = Normalisation.of_points(half["context"][:, :3].astype(np.float64))
    centre = frame.apply(np.zeros((1, 3)))
    true = np.linalg.norm(moved["query"][:-1, :3] - centre, axis=1) - 0.6 * scale
    np.testing.assert_allclose(moved["query"][:-1, 3], true, atol=1e-4)
    assert moved["query"][-1, 3] == UNKNOWN == IGNORED_DISTANCE


def test_frames_and_noise_are_varied_only_where_asked_for(spheres):
    plain = dataset(spheres, context_mode="levelset")
    some = dataset(spheres, context_mode="levelset", augment_frame=0.5)
    moved = [
        not np.array_equal(plain.rows(i, e)["query"], some.rows(i, e)["query"])
        for i in range(6)
        for e in range(20)
    ]
    assert 0.3 < np.mean(moved) < 0.7
    for keys in ({"augment_frame": 1.0}, {"augment_rotation": True, "method": "autodecoder"}):
        with pytest.raises(InputError, match=next(iter(keys))):
            dataset(spheres, **keys)
    noisy = dataset(spheres, context_mode="levelset", augment_noise=0.05)
    shifts = []
    for epoch in range(40):
        before, after = plain.rows(0, epoch), noisy.rows(0, epoch)
        assert np.array_equal(before["query"], after["query"])
        assert np.array_equal(before["context"][:, 3], after["context"][:, 3])
        shifts.append((after["context"] - before["context"])[:, :3].std())
    assert 0 < min(shifts) < 0.01
    assert 0.035 < max(shifts) < 0.06


@pytest.mark.parametrize("mode", ["dense", "levelset"])
def test_tasks_are_turned_as_a_whole_and_each_in_another_way(mode, spheres):
    plain = dataset(spheres, context_mode=mode)
    some = dataset(spheres, context_mode=mode, augment_rotation=True)
    rotations = []
    for epoch in range(2):
        before, after = plain.rows(0, epoch), some.rows(0, epoch)
        rotation = np.linalg.lstsq(before["query"][:, :3], after["query"][:, :3], rcond=None)[0]
        for part in ("context", "query"):
            np.testing.assert_allclose(
                before[part][:, :3] @ rotation, after[part][:, :3], atol=1e-5
            )
            assert np.array_equal(before[part][:, 3], after[part][:, 3])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
        rotations.append(rotation)
    assert not np.allclose(*rotations, atol=0.1)
