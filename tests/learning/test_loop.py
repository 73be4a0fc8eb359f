"""The outer loop yields a record a step, stops where told, and has one rule for bad steps."""

import itertools
import math

import pytest
import torch

from conftest import sphere_curriculum
from metasdf.api import train
from metasdf.errors import InputError
from metasdf.learning import loop
from metasdf.learning.loop import DivergedError, outer_loop
from metasdf.learning.training import shape_tasks, untrained

CPU = torch.device("cpu")


def started(spheres, tmp_path, **keys):
    """A curriculum's model, optimiser, tasks (two batches an epoch) and itself."""
    curriculum = sphere_curriculum(spheres, tmp_path, **keys)
    tasks = shape_tasks(curriculum)
    return *untrained(curriculum, len(tasks.names), CPU), tasks.train, curriculum


def test_a_record_tells_of_each_step(spheres, tmp_path):
    records = list(outer_loop(*started(spheres, tmp_path), num_epochs=2))
    assert [record.epoch for record in records] == [0, 0, 1, 1]
    assert [record.step for record in records] == [0, 1, 2, 3]
    assert [record.ends_epoch for record in records] == [False, True, False, True]
    for record in records:
        assert record.left_out == 0
        for value in (record.loss, record.score):
            assert value.shape == ()
            assert not value.requires_grad
            assert value.isfinite()


def test_a_resumed_loop_counts_on(spheres, tmp_path):
    records = list(outer_loop(*started(spheres, tmp_path), first_epoch=3, num_epochs=4))
    assert [(record.epoch, record.step) for record in records] == [(3, 6), (3, 7)]


def test_it_stops_where_told_and_takes_the_step_sizes_it_is_told(spheres, tmp_path):
    model, optimizer, tasks, curriculum = started(spheres, tmp_path, lr=0.5)
    asked, rates = [], []

    def factor(epoch):
        asked.append(epoch)
        return 1 / len(asked)

    for _ in outer_loop(
        model, optimizer, tasks, curriculum, lr_factor=factor, stop=lambda: len(rates) == 3
    ):
        rates.append(optimizer.param_groups[0]["lr"])
    assert asked == [0, 0, 1]
    assert rates == pytest.approx([0.5, 0.25, 0.5 / 3])


def some_fail(monkeypatch, failing):
    """Steps of these numbers have a meta-gradient that is not finite."""
    accumulate, count = loop.accumulate, iter(range(1000))

    def broken(gradients, *rest):
        result = accumulate(gradients, *rest)
        if next(count) in failing:
            next(p for p in gradients.model.parameters() if p.grad is not None).grad[...] = math.inf
        return result

    monkeypatch.setattr(loop, "accumulate", broken)


def test_a_step_without_finite_gradient_changes_nothing_and_is_counted(
    spheres, tmp_path, monkeypatch
):
    some_fail(monkeypatch, {1, 2})
    model, *rest = started(spheres, tmp_path)
    weights = []
    for record in outer_loop(model, *rest, num_epochs=2):
        weights.append([p.clone() for p in model.parameters()])
        assert record.loss.isnan() == (record.step in (1, 2))
        assert record.left_out == (record.step in (1, 2, 3))
    same = [
        all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
        for a, b in itertools.pairwise(weights)
    ]
    assert same == [True, True, False]


@pytest.mark.parametrize("save", [True, False])
def test_training_whose_steps_are_all_left_out_stops_in_memory_too(
    save, spheres, tmp_path, monkeypatch
):
    some_fail(monkeypatch, {2, 3})
    curriculum = sphere_curriculum(spheres, tmp_path)
    with pytest.raises(DivergedError, match="epoch 2: no finite meta-gradient in 2 of 2 steps"):
        train(curriculum, device="cpu", save=save)


def test_an_epoch_that_is_cut_short_diverges_too(spheres, tmp_path, monkeypatch):
    some_fail(monkeypatch, {0})
    steps = outer_loop(*started(spheres, tmp_path), stop=iter([False, True]).__next__)
    with pytest.raises(InputError, match="no finite meta-gradient in 1 of 1 steps"):
        list(steps)


def test_steps_that_are_left_out_are_told_by_the_epoch(spheres, tmp_path, monkeypatch, caplog):
    some_fail(monkeypatch, {1})
    result = train(sphere_curriculum(spheres, tmp_path, num_epochs=2), device="cpu")
    assert "epoch 1: no finite meta-gradient in 1 of 2 steps, which were left out" in caplog.text
    assert [math.isnan(loss) for loss in result.losses] == [False, True, False, False]
