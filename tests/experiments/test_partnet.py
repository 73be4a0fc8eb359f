"""Shapes of cuboids become data: exact unions, the lists' split; what is broken is told."""

import numpy as np
import pytest
import trimesh

from conftest import shared
from experiments import compare_3d, partnet
from metasdf.data.names import read_split
from metasdf.errors import InputError

UPRIGHT = np.eye(3).ravel()


def cuboid(extents, centre, axes=UPRIGHT):
    return [*extents, *centre, *axes]


def table(height):
    """A top on four legs, and as a fifth cuboid a leg's double."""
    legs = [
        cuboid((0.1, height, 0.1), (x, height / 2, z)) for x in (-0.4, 0.4) for z in (-0.2, 0.2)
    ]
    return [cuboid((1.0, 0.1, 0.6), (0, height + 0.05, 0)), *legs, legs[0]]


def write_cuboids(folder, kind, shapes, val=1):
    """The files of one kind; the last `val` shapes are those to validate on."""
    offsets = np.cumsum([0, *(len(s) for s in shapes.values())])
    rows = np.concatenate([np.array(s, np.float32).reshape(-1, 15) for s in shapes.values()])
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{kind}_cuboids.npz", cuboids=rows, offsets=offsets, ids=list(shapes))
    ids = list(shapes)
    (folder / "splits" / f"{kind}_train.txt").write_text("\n".join(ids[:-val]) + "\n")
    (folder / "splits" / f"{kind}_val.txt").write_text("\n".join(ids[-val:]) + "\n")


@pytest.fixture
def folder(tmp_path):
    for kind in ("table", "chair"):
        write_cuboids(tmp_path / "cuboids", kind, {f"{h}": table(h / 10) for h in (3, 5, 7)})
    return tmp_path / "cuboids"


def prepare(folder, out, **options):
    options = {"classes": ("tables", "chairs"), "num_samples": 500, "threads": 1, **options}
    return partnet.prepare(folder, out, **options)


def test_shapes_are_exact_unions_and_the_split_is_that_of_the_lists(folder, tmp_path):
    summary = prepare(folder, tmp_path / "out")
    assert summary["splits"] == {c: {"train": 2, "test": 1} for c in ("tables", "chairs")}
    assert summary["rejected"] == {}
    mesh = trimesh.load(tmp_path / "out" / "meshes" / "tables" / "5.off")
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1.0 * 0.1 * 0.6 + 4 * 0.1 * 0.5 * 0.1, rel=1e-4)
    splits = tmp_path / "out" / "data" / "splits"
    names = {p: [str(s) for s in read_split(splits / f"all_{p}.json")] for p in ("train", "test")}
    assert names["test"] == ["partnet/tables/7", "partnet/chairs/7"]
    assert len(names["train"]) == 4
    again = prepare(folder, tmp_path / "fewer", train=1, test=1)
    assert again["splits"]["chairs"] == {"train": 1, "test": 1}


def test_turned_and_flat_cuboids_are_taken_as_they_are_meant(tmp_path):
    s = np.sqrt(0.5)
    axes = np.array([[s, s, 0], [-s, s, 0], [0, 0, 1]])  # rows: the cuboid's own x, y, z
    write_cuboids(tmp_path, "table", {"a": [cuboid((2, 1, 0), (5, 6, 7), axes.ravel())], "b": []})
    cuboids = partnet.Cuboids(tmp_path / "table_cuboids.npz")
    corners = cuboids.solid("a").to_mesh64().vert_properties[:, :3]
    along = (corners - (5, 6, 7)) @ axes.T
    np.testing.assert_allclose(np.ptp(along, axis=0), (2, 1, partnet.THINNEST), atol=1e-6)
    for name in ("b", "none"):
        with pytest.raises(InputError, match=name):
            cuboids.solid(name)


def test_a_broken_shape_is_told_and_the_others_are_made(folder, tmp_path):
    shapes = {"good": table(0.5), "bad": [cuboid((1, np.nan, 1), (0, 0, 0))], "last": table(0.4)}
    write_cuboids(folder, "table", shapes)
    summary = prepare(folder, tmp_path / "out")
    (name, reason), *others = summary["rejected"].items()
    assert (name, others) == ("tables/bad", [])
    assert "not finite" in reason
    assert summary["splits"]["tables"] == {"train": 1, "test": 1}


@pytest.mark.parametrize("what", ["table_cuboids.npz", "splits/table_val.txt"])
def test_a_folder_that_is_another_is_told_in_a_line(what, folder, tmp_path):
    (folder / what).unlink()
    with pytest.raises(InputError, match="right folder"):
        prepare(folder, tmp_path / "out")


def test_a_file_of_other_arrays_is_refused(folder, tmp_path):
    rows = np.zeros((3, 15))
    good = {"cuboids": rows, "offsets": [0, 3], "ids": ["a"]}
    for change, words in (
        ({"cuboids": rows[:, :4]}, "C, 15"),
        ({"cuboids": rows.astype(str)}, "C, 15"),
        ({"offsets": [0.0, 3.0]}, "C, 15"),
        ({"offsets": 3}, "C, 15"),
        ({"offsets": [0, 4]}, "do not rise"),
        ({"offsets": [1, 3]}, "do not rise"),
    ):
        np.savez(folder / "table_cuboids.npz", **{**good, **change})
        with pytest.raises(InputError, match=words):
            prepare(folder, tmp_path / "out")


def test_no_shape_is_both_to_train_and_to_test_on(folder, tmp_path):
    (folder / "splits" / "chair_val.txt").write_text("3\n")
    with pytest.raises(InputError, match="lists some chairs twice"):
        prepare(folder, tmp_path / "out")


def test_the_comparison_takes_it_as_a_data_set(folder, tmp_path):
    plan = compare_3d.Plan(1.0, 1, 2, 1, 500, partnet_train=2)
    names = compare_3d.prepare_data(plan, tmp_path, {"partnet": folder}, ["partnet"])
    assert names == ["partnet"]
    keys = compare_3d.data_keys("partnet", tmp_path)
    assert len(read_split(keys["train_split"])) == 4
    assert len(read_split(keys["test_split"])) == 2
    assert len(read_split(keys["val_split"])) == 1


def test_real_tables_are_read(tmp_path):
    cuboids = shared("data", "partnet_cuboids")
    summary = prepare(cuboids, tmp_path, train=2, test=1, classes=("tables", "cabinets"))
    assert summary["splits"] == {c: {"train": 2, "test": 1} for c in ("tables", "cabinets")}
