"""RecBole's padding, and that only one file knows where it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recbole_vae
from recbole_vae.data import padding


def test_ids_columns_and_tables() -> None:
    given: list[Any] = [torch.tensor([1, 4]), np.array([1, 4])]
    for ids in given:
        assert padding.columns(ids).tolist() == [0, 3]
        assert padding.ids(padding.columns(ids)).tolist() == [1, 4]
    assert padding.real(5) == 4
    assert ["[PAD]", "a", "b"][padding.REAL] == ["a", "b"]
    table = padding.with_padding(torch.tensor([[1.0, 2.0]]))
    assert table.tolist() == [[-torch.inf, 1.0, 2.0]]
    assert table[:, padding.REAL].tolist() == [[1.0, 2.0]]
    assert padding.with_padding(torch.tensor([3.0]), 0.0).tolist() == [0.0, 3.0]


def test_no_other_file_knows_where_it_stands() -> None:
    knows = re.compile(r"\b((n_items|item_num) - 1\b|indices(\.\w+\(\))* - 1\b|(items|scores|counts)\[(:, )?1:\])")
    package = Path(recbole_vae.__file__).parent
    found = [
        f"{file.relative_to(package)}:{number}: {line.strip()}"
        for file in sorted(package.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if knows.search(line) and file.name != "padding.py"
    ]
    assert found == []
