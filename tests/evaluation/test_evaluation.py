"""Reconstructions are measured in the mesh's own frame; every shape is accounted for, once."""

import csv
import json
import math
import shutil

import matplotlib.image
import numpy as np
import pytest
import trimesh

from conftest import icosphere
from metasdf.data.names import ShapeName
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.evaluation import gallery
from metasdf.evaluation.folder import evaluate, mesh_chamfer
from metasdf.evaluation.gallery import write_gallery
from metasdf.evaluation.measures import chamfer, chamfer_l1, f_score, iou, normal_consistency
from metasdf.evaluation.tables import metrics, statistics, summarise, table, write_results
from metasdf.evaluation.yardsticks import (
    NearestShape,
    f_score_ceiling,
    match_halves,
    sampling_floor,
)
from metasdf.files import read_json, write_json
from metasdf.geometry.mesh_files import write_mesh
from metasdf.geometry.normalisation import Normalisation
from metasdf.reconstruction.split import RECORD, steps_folder


def name(instance):
    return ShapeName("made", "spheres", instance)


def directions(count, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def write_folder(
    folder, data_source, radii, initialisation=None, trajectories=(), steps=None, old_style=False
):
    """A folder as run_reconstruct.py leaves it: spheres of these radii; None is a failure.

    steps: radius after each step of each trajectory. old_style: as it was before there was a folder
    for steps.
    """
    entries = []
    for instance, radius in radii.items():
        entry = {"shape": str(name(instance)), "file": None, "error": None}
        if radius is None:
            entry["error"] = "the field is outside everywhere"
        else:
            entry["file"] = f"{entry['shape']}.ply"
            entry.update(adapt_seconds=radius, misclassified_percentage=10 * radius)
            write_mesh(folder / entry["file"], icosphere(radius))
        entries.append(entry)
    start = "." if old_style else f"../{steps_folder(folder).name}"
    if initialisation is not None:
        write_mesh(folder / start / "initialisation.ply", icosphere(initialisation))
    beside = "steps" if old_style else start
    for step, radius in (steps or {}).items():
        for instance in trajectories:
            write_mesh(folder / beside / f"{name(instance)}_{step}.ply", icosphere(radius))
    record = {
        "curriculum": {
            "data_source": str(data_source),
            "train_split": str(folder / "train.json"),
        },
        "initialisation": f"{start}/initialisation.ply" if initialisation is not None else None,
        "trajectories": [str(name(instance)) for instance in trajectories],
        "trajectory_steps": [0, 2, 9],
        "shapes": entries,
    }
    if not old_style:
        record["steps_folder"] = beside
    write_json(folder / RECORD, record)
    write_json(folder / "train.json", {"made": {"spheres": ["a", "d"]}})
    return folder


@pytest.fixture(scope="module")
def evaluated(spheres, tmp_path_factory):
    """Two spheres, 0.1 and 0.02 too large, one failure, one shape whose truth is missing."""
    folder = tmp_path_factory.mktemp("reconstructions")
    radii = {"e": 0.55, "b": None, "f": 0.67, "lost": 0.5}
    write_folder(folder, spheres, radii, initialisation=0.5)
    return folder, evaluate(folder)


# Chamfer distance


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([[0, 0, 0]], [[3, 4, 0]], 25 + 25),
        ([[0, 0, 0], [0, 0, 2]], [[0, 0, 0]], 4 / 2 + 0),
        ([[0, 0, 0]], [[0, 0, 0], [0, 0, 2], [0, 3, 0]], 0 + (4 + 9) / 3),
        ([[1, 2, 3], [4, 5, 6]], [[4, 5, 6], [1, 2, 3]], 0),
    ],
)
def test_chamfer_is_the_sum_of_both_mean_squared_nearest_distances(a, b, expected):
    assert chamfer(np.array(a, float), np.array(b, float)) == pytest.approx(expected)
    assert chamfer(np.array(b, float), np.array(a, float)) == pytest.approx(expected)


def test_chamfer_agrees_with_all_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(70, 3)), rng.normal(size=(50, 3))
    squared = [[math.dist(p, q) ** 2 for q in b] for p in a]
    forward = sum(min(row) for row in squared) / 70
    backward = sum(min(column) for column in zip(*squared, strict=True)) / 50
    assert chamfer(a, b) == pytest.approx(forward + backward)


def test_the_floor_is_what_a_second_sample_of_the_truth_scores():
    first, second = directions(20_000, 0), directions(20_000, 1)
    floor = sampling_floor(match_halves(first))
    assert floor == pytest.approx(chamfer(first, second), rel=0.05)
    assert floor == pytest.approx(2 * 4 / 20_000, rel=0.05)  # 2 area / (pi n), both ways


def test_a_mesh_is_mapped_back_by_scale_and_offset_before_it_is_measured():
    normalisation = Normalisation(np.array([-10.0, 5.0, 0.5]), 4.0)
    truth = 0.1 * directions(30_000) + [10.0, -5.0, -0.5]
    rng = np.random.default_rng(0)
    exact = mesh_chamfer(icosphere(0.4), normalisation, truth, rng)
    assert exact == pytest.approx(sampling_floor(match_halves(truth)), rel=0.1)
    larger = mesh_chamfer(icosphere(0.48), normalisation, truth, rng)
    assert larger == pytest.approx(2 * 0.02**2, rel=0.01)


# The other measures


def test_chamfer_l1_is_the_mean_of_both_mean_nearest_distances():
    a, b = np.array([[0.0, 0, 0]]), np.array([[0.0, 0, 0], [0, 0, 2], [0, 3, 0]])
    assert chamfer_l1(a, b) == pytest.approx((0 + 5 / 3) / 2)
    assert chamfer_l1(b, a) == pytest.approx(5 / 6)


def test_the_f_score_is_the_harmonic_mean_of_precision_and_recall():
    a = np.array([[0.0, 0, 0], [1, 0, 0]])
    b = np.array([[0.0, 0, 0.005], [0, 0, 0.009], [0, 1, 0]])
    assert f_score(a, b) == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert f_score(a, a + 0.5) == 0
    assert f_score(a, b, threshold=2) == 1


def test_the_f_score_ceiling_is_what_a_second_sample_of_the_truth_scores():
    first, second = (directions(30_000, seed) * 0.6 for seed in (0, 1))
    ceiling = f_score_ceiling(match_halves(first))
    assert ceiling == pytest.approx(f_score(first, second), abs=0.01)
    assert ceiling < 0.95


def test_normals_agree_up_to_sign():
    points = directions(2000)
    turned = np.stack([points[:, 1], -points[:, 0], np.zeros(2000)], axis=1)  # at right angles
    assert normal_consistency(points, points, points, -points) == pytest.approx(1)
    assert normal_consistency(points, points, points, turned) == pytest.approx(0, abs=1e-9)
    tilted = np.array([[0.6, 0.8, 0.0]])
    up = np.array([[0.0, 1.0, 0.0]])
    assert normal_consistency(np.zeros((1, 3)), up, tilted, up) == pytest.approx(0.8)


def test_the_iou_of_balls_is_the_ratio_of_their_volumes():
    assert iou(icosphere(0.6), icosphere(0.8)) == pytest.approx(0.75**3, rel=0.02)
    assert iou(icosphere(0.5), icosphere(0.5)) == 1
    apart = icosphere(0.2).apply_translation([0.5, 0, 0])
    assert iou(icosphere(0.2), apart) == 0
    opened = icosphere(0.5)
    opened.update_faces(np.arange(len(opened.faces)) > 10)
    assert iou(opened, icosphere(0.5)) is None


def test_measures_take_meshes_in_place_of_points():
    one, other = icosphere(0.6), icosphere(0.7)
    assert chamfer(one, other) == pytest.approx(2 * 0.1**2, rel=0.02)
    assert chamfer(directions(30_000) * 0.6, other) == pytest.approx(2 * 0.1**2, rel=0.02)
    assert chamfer_l1(one, other) == pytest.approx(0.1, rel=0.01)
    assert f_score(one, other, 0.05) == 0
    assert f_score(one, other, 0.11) == 1
    assert normal_consistency(one, other) > 0.99
    assert chamfer(one, one) == pytest.approx(2 * 4 * 0.6**2 / 30_000, rel=0.05)  # two samples
    assert chamfer(one, other, seed=1) != chamfer(one, other) == chamfer(one, other)
    assert chamfer(one, other, num_points=100) > chamfer(one, other)


def test_the_iou_does_not_depend_on_the_frame():
    moved = [icosphere(r).apply_scale(40).apply_translation([100, -200, 300]) for r in (0.6, 0.8)]
    assert iou(*moved) == pytest.approx(0.75**3, rel=0.02)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((4, 2)), r"a: points are \[4, 2\], want"),
        (np.zeros((0, 3)), r"a: points are \[0, 3\], want"),
        (np.full((4, 3), np.nan), "a: some points are not finite"),
        (trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False), "a: the mesh has no area"),
    ],
)
def test_points_that_cannot_be_measured_are_an_input_error(points, message):
    for measure in (chamfer, chamfer_l1, f_score, normal_consistency):
        with pytest.raises(InputError, match=message):
            measure(points, np.zeros((1, 3)))


def test_normal_consistency_of_points_needs_their_normals():
    with pytest.raises(InputError, match="points need their normals"):
        normal_consistency(icosphere(0.5), directions(10))
    with pytest.raises(InputError, match=r"b: normals are \[9, 3\], want \[10, 3\]"):
        normal_consistency(icosphere(0.5), directions(10), b_normals=directions(9))


def test_the_true_mesh_gives_normals_and_iou(spheres, tmp_path):
    data, meshes = tmp_path / "data", tmp_path / "meshes"
    shutil.copytree(spheres, data)
    write_json(data / ".datasources.json", {"made": str(meshes)})
    true = icosphere(0.45)
    true.vertices = Samples(data, name("e")).normalisation.invert(true.vertices)
    write_mesh(meshes / "spheres" / "e.ply", true)
    folder = write_folder(tmp_path / "out", data, {"e": 0.6, "f": 0.65})
    result = evaluate(folder, nearest=False)
    assert result["num_failed"] == 0
    e, f = result["shapes"]
    assert e["iou"] == pytest.approx(0.75**3, rel=0.03)
    assert e["normal_consistency"] > 0.99
    assert e["chamfer_l1"] == pytest.approx(0.15, rel=0.01)
    assert e["f_score"] == 0
    assert 0.9 * f["f_score_ceiling"] < f["f_score"] <= 1
    assert "iou" not in f
    assert "normal_consistency" not in f
    assert metrics(result)["iou"] == e["iou"]
    assert result["worst"] == ["made/spheres/e", "made/spheres/f"]
    write_results(folder, result)
    with open(folder / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["iou"]) == e["iou"]
    assert rows[1]["iou"] == ""


# A folder of reconstructions


def test_measured_shapes_have_their_distances(evaluated):
    _, result = evaluated
    rows = {row["shape"][-1]: row for row in result["shapes"] if not row["error"]}
    assert rows.keys() == {"e", "f"}
    # Half as large in the original frame; the floor adds to it.
    assert rows["e"]["chamfer"] == pytest.approx(2 * 0.05**2, rel=0.02)
    assert rows["f"]["chamfer"] == pytest.approx(2 * 0.01**2 + rows["f"]["floor"], rel=0.25)
    assert rows["e"]["floor"] == pytest.approx(2 * 4 * 0.225**2 / 30_000, rel=0.05)
    assert rows["e"]["initialisation_chamfer"] == pytest.approx(2 * 0.025**2, rel=0.05)
    assert rows["e"]["nearest_training_shape"] == "made/spheres/a"
    assert rows["f"]["nearest_training_shape"] == "made/spheres/d"
    assert rows["f"]["nearest_training_chamfer"] == pytest.approx(2 * 0.025**2, rel=0.05)


def test_failures_are_counted_and_stay_in_the_record_with_their_reason(evaluated):
    _, result = evaluated
    assert result["num_failed"] == 2
    assert result["num_shapes"] == 4
    assert [row["shape"][13:] for row in result["shapes"]] == ["e", "b", "f", "lost"]
    errors = {row["shape"][13:]: row["error"] for row in result["shapes"] if row["error"]}
    assert errors["b"].startswith("not reconstructed: the field is outside everywhere")
    assert "lost" in errors["lost"]
    assert "not found" in errors["lost"]


def test_statistics_are_over_the_shapes_that_have_the_measure(evaluated):
    _, result = evaluated
    values = [row["chamfer"] for row in result["shapes"] if row["chamfer"] is not None]
    assert len(values) == 2
    assert result["chamfer"]["mean"] == pytest.approx(sum(values) / 2)
    assert result["adapt_seconds"]["mean"] == pytest.approx((0.55 + 0.67 + 0.5) / 3)
    assert result["misclassified_percentage"]["median"] == pytest.approx(5.5)


def test_a_missing_yardstick_does_not_stop_the_measuring(spheres, tmp_path, caplog):
    write_folder(tmp_path, spheres, {"e": 0.5}, initialisation=0.5)
    (tmp_path / "train.json").unlink()
    result = evaluate(tmp_path)
    assert result["num_failed"] == 0
    assert result["chamfer"]["mean"] > 0
    assert result["nearest_training_chamfer"] is None
    assert "a yardstick is missing: " in caplog.text
    assert "train.json" in caplog.text


def test_failures_are_reported_while_the_run_goes_on(spheres, tmp_path, caplog):
    write_folder(tmp_path, spheres, {"lost": 0.5, "b": None, "e": 0.45, "c": 0.6})
    (tmp_path / "made/spheres/c.ply").write_bytes(b"no mesh")
    result = evaluate(tmp_path, nearest=False)
    assert result["num_failed"] == 3
    assert result["shapes"][2]["chamfer"] > 0
    for instance in ("lost", "b", "c"):
        assert f"failed: made/spheres/{instance}: " in caplog.text
    assert result["initialisation_chamfer"] is result["nearest_training_chamfer"] is None


def test_a_truth_of_a_single_point_is_a_failure_not_a_nan(spheres, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "out"
    shutil.copytree(spheres, data)
    header = "ply\nformat ascii 1.0\nelement vertex 1\n"
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    (data / "SurfaceSamples/made/spheres/e.ply").write_text(header + axes + "end_header\n1 2 3\n")
    result = evaluate(write_folder(folder, data, {"e": 0.45, "f": 0.65}), None, False)
    assert result["num_failed"] == 1
    write_results(folder, result)


@pytest.mark.parametrize("old_style", [False, True])
def test_the_initialisation_is_found_beside_the_folder_or_within_as_it_was(
    old_style, spheres, tmp_path
):
    folder = tmp_path / "reconstructions"
    write_folder(folder, spheres, {"e": 0.45}, initialisation=0.5, old_style=old_style)
    assert (folder / "initialisation.ply").exists() == old_style
    (row,) = evaluate(folder, nearest=False)["shapes"]
    assert row["initialisation_chamfer"] == pytest.approx(2 * 0.025**2, rel=0.05)


def test_the_truth_may_lie_elsewhere(spheres, tmp_path):
    write_folder(tmp_path, tmp_path / "gone", {"e": 0.45})
    record = read_json(tmp_path / RECORD)
    write_json(tmp_path / RECORD, {**record, "initialisation": None})
    assert evaluate(tmp_path, nearest=False)["num_failed"] == 1
    assert evaluate(tmp_path, str(spheres), nearest=False)["num_failed"] == 0


def test_the_same_folder_gives_the_same_numbers_for_any_selection(evaluated, spheres, tmp_path):
    _, result = evaluated
    write_folder(tmp_path, spheres, {"f": 0.67})
    alone = evaluate(tmp_path, nearest=False)
    assert alone["shapes"][0]["chamfer"] == result["shapes"][2]["chamfer"]


def test_a_folder_without_record_lists_every_mesh_once(spheres, tmp_path):
    write_folder(tmp_path, spheres, {"e": 0.45, "f": 0.65}, initialisation=0.5)
    (tmp_path / RECORD).unlink()
    write_mesh(tmp_path / "steps" / "made" / "spheres" / "e_0.ply", icosphere(0.5))
    with pytest.raises(InputError, match="--data_source DIR"):
        evaluate(tmp_path)
    result = evaluate(tmp_path, str(spheres))
    assert [row["shape"] for row in result["shapes"]] == ["made/spheres/e", "made/spheres/f"]
    assert result["num_failed"] == 0
    assert result["chamfer"]["mean"] < 2 * result["floor"]["mean"]


def test_a_file_left_by_an_interrupted_write_is_no_mesh(spheres, tmp_path):
    write_mesh(tmp_path / "made/spheres/e.ply", icosphere(0.45))
    (tmp_path / "made/spheres/.a1b2c3.ply").write_bytes(b"")
    result = evaluate(tmp_path, str(spheres))
    assert [row["shape"] for row in result["shapes"]] == ["made/spheres/e"]
    assert result["num_failed"] == 0


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"shapes": []},
        {"shapes": [], "initialisation": None, "curriculum": {}},
        *(
            {
                "shapes": [entry],
                "initialisation": None,
                "curriculum": {"data_source": "x", "train_split": None},
            }
            for entry in ({"file": "a.ply", "error": None}, {"shape": "a/b/c", "error": None}, "a")
        ),
    ],
    ids=["list", "bare", "no curriculum", "no name", "no file", "no entry"],
)
def test_a_record_that_lacks_entries_is_an_error_that_names_it(tmp_path, record):
    write_json(tmp_path / RECORD, record)
    with pytest.raises(InputError, match=r"reconstructions\.json: lacks"):
        evaluate(tmp_path, nearest=False)


def test_nothing_to_measure_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds neither reconstructions\.json nor"):
        evaluate(tmp_path, "x")


# The nearest training shape


def test_the_nearest_shape_is_found_among_more_than_are_measured_fully(spheres):
    shapes = [name(instance) for instance in "abcdef"]
    nearest = NearestShape(spheres, shapes)
    for instance, radius in (("a", 0.41), ("f", 0.66)):
        normalisation = Samples(spheres, name("e")).normalisation
        truth = normalisation.invert(radius * directions(5000))
        found, distance = nearest.find(truth, normalisation)
        assert found == str(name(instance))
        surface = normalisation.invert(Samples(spheres, name(instance)).surface())
        assert distance == chamfer(surface, truth)


def test_training_shapes_without_surface_are_left_out_by_name(spheres, caplog):
    nearest = NearestShape(spheres, [name("lost"), name("a")])
    assert nearest.names == ["made/spheres/a"]
    assert "left out: made/spheres/lost: " in caplog.text
    with pytest.raises(InputError, match="no training shape has surface samples"):
        NearestShape(spheres, [name("lost")])


# Statistics, tables, files


def test_statistics_by_hand():
    assert statistics([1.0, 2.0, 6.0]) == {
        "mean": 3.0,
        "median": 2.0,
        "std": pytest.approx(math.sqrt((4 + 1 + 9) / 3)),
    }
    assert statistics([]) is None


def test_the_table_lists_measured_shapes_worst_first_and_counts_the_rest(evaluated):
    _, result = evaluated
    lines = table(result).splitlines()
    assert "sum of both mean squared" in lines[0]
    assert "x 1e3" in lines[0]
    heads = ["Chamfer", "floor", "nearest", "init", "Chamfer-L1", "F-score", "ceiling", "normals"]
    assert lines[1].split() == ["shape", *heads, "IoU"]
    assert [line.split()[0] for line in lines[2:4]] == ["made/spheres/e", "made/spheres/f"]
    assert float(lines[2].split()[1]) == pytest.approx(5.0, rel=0.02)
    assert [line.split("  ")[0] for line in lines[5:8]] == ["mean", "median", "standard deviation"]
    assert lines[8].startswith("Chamfer-L1: mean of both mean nearest distances")
    assert lines[9].startswith("F-score: share of points within 0.01")
    assert lines[-2] == "worst by Chamfer: made/spheres/e, made/spheres/f"
    assert lines[-1] == "2 of 4 shapes measured, 2 failed"


def test_a_table_without_a_measured_shape_still_counts():
    row = {"shape": "a/b/c", "error": "lost", "chamfer": None, "floor": None}
    result = summarise([row])
    text = table(result)
    assert text.endswith("0 of 1 shapes measured, 1 failed")
    assert "nan" not in text
    headline = metrics(result)
    assert headline["num_failed"] == headline["num_shapes"] == 1
    assert headline["chamfer_mean"] is headline["chamfer_median"] is None


def test_the_headline_numbers_are_the_means(evaluated):
    _, result = evaluated
    headline = metrics(result)
    assert headline["chamfer_mean"] == result["chamfer"]["mean"]
    assert headline["chamfer_floor"] == result["floor"]["mean"]
    assert headline["chamfer_initialisation"] == result["initialisation_chamfer"]["mean"]
    assert headline["chamfer_nearest_training_shape"] < headline["chamfer_mean"]
    assert json.loads(json.dumps(headline)) == headline


def test_results_are_written_as_json_and_as_a_row_per_shape(evaluated):
    folder, result = evaluated
    write_results(folder, result)
    assert read_json(folder / "evaluation.json") == result
    with open(folder / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["shape"] for row in rows] == [row["shape"] for row in result["shapes"]]
    assert float(rows[0]["chamfer"]) == result["shapes"][0]["chamfer"]
    assert rows[1]["chamfer"] == ""
    assert "outside everywhere" in rows[1]["error"]
    assert rows[0]["nearest_training_shape"] == "made/spheres/a"


# The gallery


PIXELS = 160


@pytest.fixture
def small_pictures(monkeypatch):
    monkeypatch.setattr(gallery, "PIXELS", PIXELS)


def cells(path):
    """How much is drawn below the label in each cell of a gallery."""
    image = (matplotlib.image.imread(path)[..., :3] < 0.95).any(axis=-1)
    height, columns = PIXELS + gallery.LABEL_PIXELS, image.shape[1] // PIXELS
    rows = image.shape[0] // height
    assert image.shape == (rows * height, columns * PIXELS)
    return [
        [
            int(image[top + gallery.LABEL_PIXELS : top + height, left : left + PIXELS].sum())
            for left in range(0, columns * PIXELS, PIXELS)
        ]
        for top in range(0, rows * height, height)
    ]


def test_the_gallery_shows_truth_beside_reconstruction_two_shapes_a_row(
    spheres, tmp_path, small_pictures
):
    write_folder(tmp_path, spheres, {"a": 0.8, "lost": None, "d": 0.3, "c": 0.6, "b": 0.5})
    write_gallery(tmp_path / "new" / "gallery.png", tmp_path, num_shapes=3)
    (a, a_mesh, d, d_mesh), (c, c_mesh, *rest) = cells(tmp_path / "new" / "gallery.png")
    assert a_mesh / a == pytest.approx((0.8 / 0.4) ** 2, rel=0.2)
    assert d_mesh / d == pytest.approx((0.3 / 0.7) ** 2, rel=0.2)
    assert c_mesh / c == pytest.approx(1, rel=0.1)
    assert rest == [0, 0]


@pytest.mark.parametrize("old_style", [False, True])
def test_a_trajectory_is_a_row_with_a_blank_where_a_step_has_no_surface(
    old_style, spheres, tmp_path, small_pictures
):
    steps = {0: 0.8, 1: 0.7, 9: 0.4}  # step 1 was not asked for
    folder = tmp_path / "reconstructions"
    write_folder(folder, spheres, {"e": 0.45}, trajectories=["e"], steps=steps, old_style=old_style)
    write_gallery(tmp_path / "gallery.png", folder)
    _, (start, blank, end, truth) = cells(tmp_path / "gallery.png")
    assert start > end > 0
    assert truth == pytest.approx(end * (0.45 / 0.4) ** 2, rel=0.2)
    assert blank == 0


def test_the_gallery_goes_on_where_a_truth_is_missing(spheres, tmp_path, small_pictures):
    write_folder(tmp_path, spheres, {"lost": 0.5, "c": 0.6})
    write_gallery(tmp_path / "gallery.png", tmp_path)
    ((*_, truth, mesh),) = cells(tmp_path / "gallery.png")
    assert mesh / truth == pytest.approx(1, rel=0.1)


def test_a_gallery_of_nothing_is_an_error(spheres, tmp_path, small_pictures):
    write_folder(tmp_path, spheres, {"b": None})
    with pytest.raises(InputError, match="holds no reconstruction to draw"):
        write_gallery(tmp_path / "gallery.png", tmp_path)
    assert not (tmp_path / "gallery.png").exists()
