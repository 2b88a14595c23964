"""The profile of a training step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.profiler_util import FunctionEvent

from recbole_vae.bench import profile
from recbole_vae.bench.profile import BETWEEN, HIDDEN, OPTIMISER, OTHER, OUTPUT, SPARSE, Profiled, needs, parts_of
from recbole_vae.bench.report import profile_table
from tests.conftest import Builder


def test_parts_of_a_real_step_sum_to_the_total_and_have_all_operators(build: Builder) -> None:
    run = build(mlp_hidden_size=[12])
    run.trainer._train_epoch(run.train, 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        run.trainer._train_epoch(run.train, 0)
    events = profiled.events()
    parts = {part.name: part.ms for part in parts_of(events, len(run.train), 0.5)}
    assert sum(parts.values()) == pytest.approx(500 / len(run.train))
    in_operators = sum(event.self_cpu_time_total for event in events) / 1e3 / len(run.train)
    assert sum(ms for name, ms in parts.items() if name != BETWEEN) == pytest.approx(in_operators)
    found: dict[str, set[str]] = {}
    for event in events:
        found.setdefault(profile.group(event), set()).add(event.name)
    for part in (OUTPUT, HIDDEN):
        assert {"aten::mm", "aten::addmm"} <= found[part] <= {"aten::mm", "aten::addmm", "aten::matmul", "aten::linear"}
    assert "aten::_fused_adam_" in found[OPTIMISER]
    assert any("embedding_bag" in name for name in found[SPARSE])
    others = {name for name in found[OTHER] if name.startswith("aten::")}
    assert not any("mm" in name or "adam" in name or "embedding" in name for name in others)


def event(name: str, ms: float, parent: Any = None) -> Any:
    made = FunctionEvent(0, name, 0, 0, 1000 * ms)
    made.cpu_parent = parent
    return made


def test_an_unknown_operator_is_another_one_and_an_outer_one_decides() -> None:
    scope = event("_LinearMultinomialBackward", 0)
    events = [event("aten::mm", 4, scope), event("aten::mm", 2), event("my::fused", 3), event("my::fused", 8, scope)]
    parts = {part.name: part.ms for part in parts_of(events, 2, 0.02)}
    assert {name: ms for name, ms in parts.items() if ms} == {
        OUTPUT: 2, HIDDEN: 1, OTHER: 1.5, "output layer: the rest": 4, BETWEEN: 1.5,
    }  # fmt: skip


def test_what_a_step_needs(build: Builder) -> None:
    run = build(mlp_hidden_size=[12], latent_dimension=6)
    needed = needs(run.model, 10, 50.0, 2)
    shapes = {name: np.array(each.shape) for name, each in run.model.named_parameters()}
    assert needed[OUTPUT][0] == 6 * 10 * 25 * 12
    assert needed[HIDDEN][0] == 6 * 10 * (12 * 12 + 6 * 12)  # to mean and variance, and from the latent variables
    assert needed[SPARSE][1] == 4 * (2 * 50 * 12 + 25 * 12)
    assert needed[OPTIMISER][1] == 28 * sum(np.prod(shape) for shape in shapes.values())


def test_the_table_sums_the_parts() -> None:
    parts = parts_of([event("aten::mm", 4, event("_LinearMultinomial", 0)), event("x", 2)], 1, 0.01)
    parts[0].flops, parts[0].limit = 5e9, 2.5
    found = asdict(Profiled(10, 50.0, "bfloat16", 10.0, 9.0, [2e12, 1e12], 3e10, parts))
    report = {
        "machine": {"processor": "P", "gpu": None, "threads": 2}, "versions": {},
        "data": {"users": 1, "items": 2, "interactions": 3}, "profiles": {"A": found, "B": asdict(Profiled(error="no"))},
    }  # fmt: skip
    lines = {line.split("  ")[0]: line.split()[-5:] for line in profile_table(report).splitlines()}
    assert lines[OUTPUT] == ["4.00", "40.0", "%", "5.00", "2.50"]
    assert lines["sum"] == ["sum", "10.00", "100.0", "%", "2.50"]
    assert lines["B: no"]
