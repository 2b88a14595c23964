"""Nothing that people can type or write into a file ends in a traceback, hangs, harms a file, or gives a wrong number.

The short run is part of all tests. The long one, of more than a thousand inputs, is started by ``pytest -m fuzz tests/fuzz -s``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.fuzz import cases, saved
from tests.fuzz.run import Case, Server, tally

KINDS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "data files": (lambda originals: cases.data_files(), 8, 200),
    "tables to prepare": (lambda originals: cases.tables_to_prepare(), 15, 250),
    "config files": (lambda originals: cases.config_files(), 8, 200),
    "plans": (lambda originals: cases.plans(), 4, 120),
    "checkpoints": (saved.changed_checkpoints, 8, 200),
    "histories": (saved.history_files, 6, 120),
    "command lines": (cases.command_lines, 10, 200),
}
"""By name: how inputs are drawn, and how many in the short run and in the long one."""


@pytest.fixture(scope="module")
def originals(server: Server) -> dict[str, bytes]:
    """Train a model of each kind."""
    found = {}
    for model in ("MultVAE", "HybridVAE", "VampVAE", "EASE", "BPR"):
        words = ["run", f"--model={model}", *cases.FAST, f"--eval_args={cases.LEAVE_ONE_OUT}", *cases.own(model)]
        ended = server.run(Case(words, {"data/tiny/tiny.inter": cases.tiny().content}))
        assert ended.status == 0, ended.err
        (file,) = (ended.work / "saved").glob("*.pth")
        found[model] = file.read_bytes()
    return found


def run(kind: str, number: int, server: Server, originals: dict[str, bytes], derandomize: bool) -> list[str]:
    """Run a number of inputs of a kind; return what was found."""
    found = []
    drawn = KINDS[kind][0](originals)

    @hypothesis_settings(
        max_examples=number, derandomize=derandomize, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def each(data: st.DataObject) -> None:
        case, check = data.draw(drawn)
        try:
            ended = server.check(case)
            tally[kind, check(ended)] += 1
        except AssertionError as error:
            tally[kind, "FAULT"] += 1
            found.append(str(error))
        else:
            server.forget(ended)

    each()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_short(kind: str, server: Server, originals: dict[str, bytes]) -> None:
    found = run(kind, KINDS[kind][1], server, originals, derandomize=True)
    assert not found, "\n\n".join(found)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", KINDS)
def test_long(kind: str, server: Server, originals: dict[str, bytes]) -> None:
    started = time.monotonic()
    found = run(kind, KINDS[kind][2], server, originals, derandomize=False)
    print(f"\n{kind}: {time.monotonic() - started:.0f} s")
    for name, outcome in sorted(tally):
        if name == kind:
            print(f"  {tally[name, outcome]:>6} {outcome}")
    assert not found, "\n\n".join(found)
