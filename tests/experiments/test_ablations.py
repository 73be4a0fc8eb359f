"""The ablations: what is written is what a direct call gives, and interruptions cost nothing."""

import json

import pytest
import torch

from conftest import sphere_curriculum
from experiments import ablations
from experiments.ablations_report import write_document
from metasdf.data.names import ShapeName, read_split
from metasdf.errors import InputError
from metasdf.evaluation.folder import measure
from metasdf.geometry.mesh_files import write_mesh
from metasdf.learning.model_files import load_model
from metasdf.reconstruction.fitting import held_out_task, reconstruct_shape

CPU = torch.device("cpu")
PLAN = ablations.Plan(
    keys={},
    inner_steps=(1, 2),
    test_steps=(0, 1, 2, 4),
    static_lrs=(0.1,),
    network_lrs={"relu": (0.02, 0.1), "siren": (1e-3, 3e38)},
    seeds=(0, 1),
    points=2,
    chamfer_shapes=1,
)


def curriculum(spheres, folder, **overrides):
    keys = {"lr": 1e-2, "init_lr": 0.1, "num_epochs": 5, **overrides}
    return sphere_curriculum(spheres, folder, **keys)


@pytest.fixture(scope="module")
def ablated(spheres, tmp_path_factory):
    """Work folder, documents and figures of a miniature run."""
    folder = tmp_path_factory.mktemp("ablations")
    work, docs = folder / "work", folder / "docs"
    assert ablations.ablate(curriculum(spheres, folder), PLAN, work, docs) == 0
    return work, docs, json.loads((docs / "ablations" / "ablations.json").read_text())


def rows(results):
    return {row["label"]: row for study in results["studies"].values() for row in study}


def test_every_study_has_its_rows_plots_and_tables(ablated):
    _, docs, results = ablated
    assert [row["label"] for row in results["studies"]["steps"]] == ["1", "2"]
    assert [row["label"] for row in results["studies"]["networks"]] == ["relu", "siren"]
    assert len(results["studies"]["step_sizes"]) == 6
    assert [row["steps"] for row in results["test_steps"]] == [0, 1, 2, 4]
    text = (docs / "ablations.md").read_text()
    for plot in ("steps", "step_sizes", "order", "networks"):
        assert (docs / "ablations" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(ablations/{plot}.png)" in text
    for row in rows(results).values():
        (line,) = {line for line in text.splitlines() if line.startswith(f"| {row['label']} |")}
        assert f" {row['misclassified']:.2f} |" in line


def test_figures_are_what_direct_calls_give(ablated, spheres, tmp_path):
    work, _, results = ablated
    row = rows(results)["1"]
    model = load_model(work / "num_meta_steps=1" / "checkpoints" / "latest.pth")
    trained_with = model.curriculum
    assert trained_with["num_meta_steps"] == 1
    assert row["outer_steps"] == 5 * 2
    base = curriculum(spheres, tmp_path)
    for index, shape in enumerate(read_split(base["test_split"])):
        mesh, record = reconstruct_shape(model, base, shape, CPU)
        assert row["misclassified_by_shape"][index] == record["misclassified_percentage"]
        if index == 0:
            write_mesh(tmp_path / "mesh.ply", mesh)
            entry = {"shape": str(shape), "file": "mesh.ply"}
            direct = measure(tmp_path, base["data_source"], entry, None, None)["chamfer"]
            assert row["chamfer_by_shape"] == [pytest.approx(direct, rel=1e-3)]
    tasks = [held_out_task(base, shape, CPU) for shape in read_split(base["test_split"])]
    losses = [model.outer_loss(task)[0].item() for task in tasks]
    assert row["outer_loss"] == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_the_base_at_its_own_steps_is_the_base_and_the_last_point_of_its_curve(ablated):
    _, _, results = ablated
    base = rows(results)["second order"]
    at = {row["steps"]: row["misclassified"] for row in results["test_steps"]}
    assert at[2] == base["misclassified"] == base["curve"][-1]["misclassified"]
    assert at[0] != at[2]
    assert [point["outer_steps"] for point in base["curve"]] == [4, 8, 10]
    assert rows(results)["first order, twice the outer steps"]["outer_steps"] == 20


def test_init_lr_is_chosen_on_training_shapes_kept_back(ablated, spheres):
    work, _, results = ablated
    kept, learned = (read_split(work / "splits" / f"{n}.json") for n in ("validation", "train"))
    assert kept == [ShapeName("made", "spheres", "a")]
    assert sorted(kept + learned) == sorted(read_split(spheres / "train.json"))
    relu = rows(results)["relu"]
    validation = [tried["validation"]["misclassified"] for tried in relu["tried"]]
    best = relu["tried"][validation.index(min(validation))]
    assert relu["chosen"] == best["changes"]


def test_what_diverges_is_shown_and_not_chosen(ablated):
    _, docs, results = ablated
    siren = rows(results)["siren"]
    assert siren["chosen"]["init_lr"] == 1e-3
    assert "no finite meta-gradient" in siren["tried"][1]["error"]
    assert "3e+38 (diverged)" in (docs / "ablations.md").read_text()


def test_a_second_run_trains_nothing_and_keeps_what_was_written(
    ablated, spheres, monkeypatch, capfd
):
    work, docs, results = ablated
    document = docs / "ablations.md"
    table = document.read_text()
    document.write_text(table.replace("## Noise\n", "## Noise\n\nBy hand.\n").replace("| 1 |", ""))
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*.pth")}
    assert before
    monkeypatch.setattr(ablations, "side_by_side", lambda work, jobs, processes: ({}, len(jobs)))
    base = curriculum(spheres, work.parent)
    assert ablations.ablate(base, PLAN, work, docs) == 0
    assert json.loads((docs / "ablations" / "ablations.json").read_text()) == results
    assert document.read_text() == table.replace("## Noise\n", "## Noise\n\nBy hand.\n")
    assert capfd.readouterr().err == ""
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_an_interrupted_run_ends_with_the_same_figures(ablated, spheres, tmp_path, monkeypatch):
    changes, train, calls = {"num_meta_steps": 1}, ablations.train, []
    base = curriculum(spheres, tmp_path)

    def interrupted(*arguments, **options):
        train(*arguments, **options)
        calls.append(options)
        if len(calls) == 2:  # its checkpoint is written, its record is not
            raise KeyboardInterrupt

    monkeypatch.setattr(ablations, "train", interrupted)
    runs = ablations.Ablations(base, PLAN, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.complete(changes)
    assert [point["epoch"] for point in runs.record(changes)["points"]] == [2]
    record = runs.complete(changes)
    assert (calls[2]["load"], calls[2]["overwrite"]) == (True, False)
    assert [point["epoch"] for point in record["points"]] == [2, 4, 5]
    _, _, results = ablated
    assert record["test"]["misclassified"] == rows(results)["1"]["misclassified_by_shape"]
    assert runs.record(changes)["test"] == record["test"]


def test_records_of_other_settings_are_not_mixed_in(ablated, spheres):
    work, docs, _ = ablated
    with pytest.raises(InputError, match="of other settings; delete it or give another --work"):
        ablations.ablate(curriculum(spheres, work.parent, lr=2e-3), PLAN, work, docs)


def test_a_document_without_its_marks_is_left_alone(tmp_path):
    (tmp_path / "ablations.md").write_text("Mine.")
    with pytest.raises(InputError, match=r"wants <!-- steps --> \.\.\. <!-- end --> once"):
        write_document(tmp_path / "ablations.md", {"steps": "| K |"})
    assert (tmp_path / "ablations.md").read_text() == "Mine."


def test_a_method_without_inner_loop_is_refused(spheres, tmp_path):
    with pytest.raises(InputError, match="has no inner loop to vary"):
        ablations.Ablations(curriculum(spheres, tmp_path, method="set_concat"), PLAN, tmp_path)
