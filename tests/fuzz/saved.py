"""Checkpoints that are damaged, and files of histories to use them on; for each what its numbers must be."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import torch
from hypothesis import strategies as st

from tests.fuzz import oracle, tables
from tests.fuzz.cases import FAST, WILD, Check, tiny
from tests.fuzz.run import Case, Ended
from tests.fuzz.tables import Draw, Table

RECBOLES = ("EASE", "BPR")
"""Models whose checkpoints are RecBole's, which hold more than plain values."""


@st.composite
def changed_checkpoints(draw: Draw, originals: dict[str, bytes]) -> tuple[Case, Check]:
    """Draw a checkpoint with something wrong in it, and use it."""
    model = draw(st.sampled_from(list(originals)))
    content = originals[model]
    what = draw(st.sampled_from(["nothing", "cut", "flip", "bytes", *["state"] * 5]))
    if what == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif what == "bytes":
        content = tables.damage(draw, content, "\t")
    elif what == "flip":
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([content[place] ^ 2 ** draw(st.integers(0, 7))]) + content[place + 1 :]
    elif what == "state" and model not in RECBOLES:
        content = changed(draw, content, originals)
    command = draw(
        st.sampled_from(["recommend", "recommend", "resume", "explain", "latent", "uncertainty", "generate"])
    )
    words = {
        "recommend": ["recommend", "--checkpoint=c.pth", "-k", "4"],
        "resume": ["run", "--resume=c.pth", "--epochs=3", *(FAST[1:] if draw(st.booleans()) else FAST[1:4])],
        "explain": ["explain", "--checkpoint=c.pth", "--users=u1"],
        "latent": ["latent", "--checkpoint=c.pth"],
        "uncertainty": ["uncertainty", "--checkpoint=c.pth", "--samples=3", "-k", "2"],
        "generate": ["generate", "--checkpoint=c.pth", "--out=o.inter"],
    }[command]
    case = Case(words, {"data/tiny/tiny.inter": tiny().content, "c.pth": content})
    if command == "resume":
        case.resumes = "c.pth"

    def check(ended: Ended) -> str:
        if ended.status or command != "recommend":
            return ended.outcome
        scores = [float(line["score"]) for line in csv.DictReader(io.StringIO(ended.out))]
        assert np.isfinite(scores).all(), f"{ended.folder}: scores that are no numbers"
        if what in ("cut", "flip", "bytes", "nothing"):
            same = RANKINGS.setdefault(model, ended.out)
            assert ended.out == same, f"{ended.folder}: other scores than those of the whole file"
            return "done, numbers confirmed"
        return ended.outcome

    return case, check


RANKINGS: dict[str, str] = {}
"""What ``recommend`` prints for each checkpoint; the first case of each model sets it, and all others must agree."""


def changed(draw: Draw, content: bytes, originals: dict[str, bytes]) -> bytes:
    """Change a value of a checkpoint, at whatever depth, and write it again."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    name = draw(st.sampled_from([each for each in originals if each not in RECBOLES]))
    other = torch.load(io.BytesIO(originals[name]), weights_only=True)
    holder = state
    for _ in range(draw(st.integers(0, 2))):
        inner = [key for key, value in holder.items() if isinstance(value, dict) and value]
        if inner:
            holder = holder[draw(st.sampled_from(inner))]
    key = draw(st.sampled_from(list(holder)))
    value = holder[key]
    if isinstance(value, torch.Tensor):
        match draw(
            st.sampled_from(["nan", "inf", "shape", "type", "other", "gone", "wild", "big", "empty", "negative"])
        ):
            case "nan" | "inf" as number:
                changed = value.clone()
                if changed.is_floating_point() and changed.numel():
                    changed.view(-1)[0] = float(number)
                holder[key] = changed
            case "shape":
                holder[key] = value.reshape(-1)[: max(0, value.numel() - 1)].clone()
            case "type":
                holder[key] = value.to(draw(st.sampled_from([torch.float64, torch.int32, torch.bool])))
            case "big":
                holder[key] = torch.full_like(value, 100)
            case "negative":
                holder[key] = -value if value.dtype not in (torch.bool, torch.uint8) else value
            case "empty":
                holder[key] = value.new_zeros(0)
            case "other":
                holder[key] = draw(st.sampled_from(list(other["state_dict"].values())))
            case "gone":
                del holder[key]
            case _:
                holder[key] = draw(st.sampled_from(WILD))
    elif draw(st.integers(0, 3)) == 0:
        del holder[key]
    elif draw(st.integers(0, 2)) == 0 and key in other:
        holder[key] = other[key]
    elif isinstance(value, list) and value and draw(st.booleans()):
        holder[key] = draw(st.sampled_from([value[:-1], value[::-1], [*value, value[-1]], [None, *value[1:]], []]))
    else:
        holder[key] = draw(st.one_of(st.sampled_from(WILD), st.integers(-(2**40), 2**40)))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@st.composite
def history_files(draw: Draw, originals: dict[str, bytes]) -> tuple[Case, Check]:
    """Draw histories, and recommend for them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = [f"i{number}" for number in range(12)]
    histories = {
        draw(names): [str(each) for each in rng.choice(items, rng.integers(0, 6), replace=False)]
        for names in [tables.names] * draw(st.integers(0, 5))
    }
    separator = draw(st.sampled_from([",", "\t"]))
    for items_of_user in histories.values():
        items_of_user += draw(st.lists(st.sampled_from(["i1", "NA", "none", '"i1"', "i 1", "[PAD]", "é"]), max_size=2))
    lines = [["user_id", "item_id"], *([user, item] for user, known in histories.items() for item in known or [""])]
    buffer = io.StringIO(newline="")
    if separator == ",":
        csv.writer(buffer, lineterminator="\n").writerows(lines)
    else:
        buffer.write("".join("\t".join(line) + "\n" for line in lines))
    content = buffer.getvalue().encode(
        draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])), errors="replace"
    )
    if draw(st.integers(0, 2)) == 0:
        content = tables.damage(draw, content, separator)
    model, k = draw(st.sampled_from(["MultVAE", "MultVAE", "EASE"])), draw(st.sampled_from([1, 3, 99]))
    words = ["recommend", "--checkpoint=c.pth", f"--histories={draw(st.sampled_from(['h.csv', '-']))}", f"-k={k}"]
    if draw(st.integers(0, 3)) == 0:
        words.append("--keep_seen=True")
    files = {"data/tiny/tiny.inter": tiny().content, "c.pth": originals[model], "h.csv": content}
    case = Case(words, files, stdin=content if "--histories=-" in words else None)

    def check(ended: Ended) -> str:
        if ended.status:
            return ended.outcome
        table = Table(content, separator, "utf-8")
        rows = tables.cells_of(table, quoted=separator == ",")
        if rows is None or model != "MultVAE":
            return ended.outcome
        strip = separator == ","
        told: dict[str, list[str]] = {}
        found: dict[str, list[tuple[str, float]]] = {}
        places = [[cell.strip() for cell in rows[0]].index(name) for name in ("user_id", "item_id")]
        for row in rows[1:]:
            user, item = ((row[place].strip() if strip else row[place]) for place in places)
            told.setdefault(user, []).append(item)
        for line in csv.DictReader(io.StringIO(ended.out)):
            found.setdefault(line["user_id"], []).append((line["item_id"], float(line["score"])))
        state = torch.load(io.BytesIO(originals[model]), weights_only=True)
        for user, history in told.items():
            known = [each for each in history if each in state["items"][1:]]
            if known:
                right = oracle.multvae(state, known)
                for item, score in found[user]:
                    assert math.isclose(right[item], score, rel_tol=1e-3, abs_tol=1e-3), (
                        f"{ended.folder}: {user!r} {item}"
                    )
                left = [item for item in right if "--keep_seen=True" in words or item not in known]
                assert len(found[user]) == min(k, len(left)), f"{ended.folder}: {user!r}"
                least = min(score for _, score in found[user])
                assert all(right[item] <= least + 1e-3 for item in set(left) - {item for item, _ in found[user]})
        return "done, numbers confirmed"

    return case, check
