"""Generated tables of interactions: as people have them, and then damaged. Each comes with what is right, read by pandas."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

Draw = Any

NAMES = [
    "", " ", "0", "-1", "01", "1.0", "1e5", "nan", "NaN", "NA", "None", "null", "inf", "-inf", "True", "[PAD]", "user_id", "u;v",
    "é", "日本", "\u202eabc", "a\u0301", "😀", "\u200b", "x" * 300, '"', '"a"', '"Great" Cats', "it's", "a b", " lead", "trail ",
    "#", "//", "C:\\x", "=1+1", "<b>", "{}", "%s", "9" * 30, "_", "--k=1", "\u2028", "\x0b", "\ufffd", "ß", "İ",
]  # fmt: skip
NUMBERS = [
    "", "nan", "inf", "-inf", "1e400", "-1e400", "3e38", "-3e38", "1e-320", "0", "-0", "-5", "1_000", "0x1F", "1,5", "five", "5",
    "4.5", " 3", "1e5", "9" * 25, "NA", "\u0665",
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "utf-16-le"]

names = st.one_of(
    st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), max_size=8)
)


@dataclass
class Table:
    """A table as a file, and how it is to be read."""

    content: bytes
    separator: str
    encoding: str
    columns: dict[str, str] = field(default_factory=dict)
    """From user, item, time, rating, title to the names in the file."""
    damaged: bool = False


def interactions(draw: Draw, most: int = 14) -> pd.DataFrame:
    """Draw interactions of a few users, with names of all kinds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, items = (list(map(str, range(draw(st.integers(1, most))))) for _ in range(2))
    for people, letter in ((users, "u"), (items, "i")):
        people[:] = [f"{letter}{each}" for each in people]
        for name in draw(st.lists(names, max_size=3)):
            people[int(rng.integers(len(people)))] = name
    rows = [(user, item) for user in users for item in rng.permutation(items)[: rng.integers(0, len(items) + 1)]]
    if draw(st.booleans()):
        rows += [rows[int(rng.integers(len(rows)))] for _ in range(draw(st.integers(0, 6))) if rows]
    frame = pd.DataFrame(rows, columns=["user", "item"]).astype(object)
    start, unit = draw(
        st.sampled_from([(1_700_000_000, 1), (0, 1), (-50, 1), (1_700_000_000, 10**3), (1_700_000_000, 10**9)])
    )
    ticks = rng.permutation(len(frame) * 2)[: len(frame)]
    if draw(st.integers(0, 3)) == 0:
        frame["time"] = [(datetime(2024, 2, 28) + timedelta(seconds=int(each))).isoformat() for each in ticks]
    else:
        frame["time"] = [str(start * unit + int(each)) for each in ticks]
    frame["rating"] = rng.integers(1, 11, len(frame)).astype(str)
    if draw(st.integers(0, 3)) == 0 and len(frame):
        for value in draw(st.lists(st.sampled_from(NUMBERS), max_size=2)):
            frame.loc[int(rng.integers(len(frame))), draw(st.sampled_from(["rating", "rating", "time"]))] = value
    return frame.sample(frac=1, random_state=int(rng.integers(2**31)))


def as_bytes(draw: Draw, frame: pd.DataFrame, separators: list[str], encodings: list[str]) -> tuple[bytes, str, str]:
    """Write a frame as text, in one of the ways that there are."""
    separator = draw(st.sampled_from(separators))
    encoding = draw(st.sampled_from(encodings))
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    lines = [list(frame), *frame.to_numpy().tolist()]
    if separator in ",;|":
        buffer = io.StringIO(newline="")
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting).writerows(lines)
        text = buffer.getvalue()
    else:
        text = "".join(separator.join(line) + end for line in lines)
    if draw(st.booleans()):
        text = text.removesuffix(end)
    return text.encode(encoding, errors="replace"), separator, encoding


def damage(draw: Draw, content: bytes, separator: str) -> bytes:
    """Change a few places of a file, as a bad copy, a bad program or a tired person would."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(1, 3))):
        place = int(rng.integers(max(1, len(content))))
        lines = content.split(b"\n")
        number = int(rng.integers(len(lines)))
        line = lines[number]
        match draw(st.sampled_from(
            ["flip", "drop", "put", "cut", "twice", "header", "blank", "longer", "shorter", "mark", "empty"]
        )):  # fmt: skip
            case "flip":
                content = (
                    content[:place]
                    + bytes([content[place] ^ 2 ** draw(st.integers(0, 7))] if content else [])
                    + content[place + 1 :]
                )
            case "drop":
                content = content[:place] + content[place + 1 :]
            case "put":
                content = (
                    content[:place]
                    + draw(st.sampled_from([b"\0", b"\r", b"\n", b'"', b"\xff", b"\t", b",", b"\x1a", b"\xe2\x80\xa8"]))
                    + content[place:]
                )
            case "cut":
                content = content[:place]
            case "empty":
                content = draw(st.sampled_from([b"", b"\n", b"\r\n", b" ", b"\xef\xbb\xbf"]))
            case what:
                half = line.rstrip(b"\r")
                lines[number : number + 1] = {
                    "twice": [line, line], "header": [line, lines[0]], "blank": [line, b""],
                    "longer": [half + separator.encode() + b"more"], "shorter": [half.rpartition(separator.encode())[0]],
                    "mark": [b'"' + line],
                }[what]  # fmt: skip
                content = b"\n".join(lines)
    return content


def cells_of(table: Table, quoted: bool) -> list[list[str]] | None:
    """Read a table by Python's csv module; None if its lines are not all alike."""
    try:
        text = table.content.decode(table.encoding).removeprefix("\ufeff")
        if quoted:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=table.separator, strict=True))
        else:
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            rows = [line.split(table.separator) for line in lines]
    except (UnicodeDecodeError, csv.Error):
        return None
    rows = [row for row in rows if row and not (len(row) == 1 and not row[0].strip())]
    return rows if rows and len({len(row) for row in rows}) == 1 else None


def truth(table: Table, quoted: bool, strip: bool) -> pd.DataFrame | None:
    """Return what a table says: user, item, and the others that it has; rows without one are left out. None if it is none."""
    rows = cells_of(table, quoted)
    if rows is None:
        return None
    header, *lines = ([cell.strip() for cell in row] if strip else row for row in rows)
    if len(set(header)) < len(header) or not set(table.columns.values()) <= set(header):
        return None
    frame = pd.DataFrame(lines, columns=header, dtype=object)[list(table.columns.values())]
    frame.columns = list(table.columns)
    frame = frame[(frame != list(table.columns.values())).any(axis=1)]  # the header again
    needed = [name for name in frame if name != "title"]
    return frame[~frame[needed].isin(STR_NA_VALUES).any(axis=1)]


def moments(texts: Any) -> list[Decimal] | None:
    """Return times as numbers; None if they are none."""
    try:
        return [Decimal(text.strip()) for text in texts]
    except InvalidOperation:
        pass
    try:
        return [Decimal(pd.Timestamp(text).value) for text in texts]
    except ValueError:
        return None


@st.composite
def atomic_files(draw: Draw) -> tuple[Table, dict[str, bytes]]:
    """Draw an .inter file, sometimes damaged, and perhaps the files of users and items beside it."""
    frame = interactions(draw)
    kinds = {"user": "user_id:token", "item": "item_id:token", "time": "timestamp:float", "rating": "rating:float"}
    if len(frame) and "T" in str(frame.time.iloc[0]):
        kinds["time"] = "timestamp:token"
    if draw(st.booleans()):
        del kinds["rating"]
        frame = frame.drop(columns="rating")
    if draw(st.integers(0, 3)) == 0:
        extra = draw(st.sampled_from(["tags:token_seq", "vector:float_seq", "kind:token", "price:float"]))
        frame[extra] = draw(st.sampled_from(NUMBERS + NAMES[:8]))
        kinds[extra] = extra
    frame = frame[draw(st.permutations(list(frame)))].rename(columns=kinds)
    content, separator, encoding = as_bytes(draw, frame, ["\t", "\t", "\t", ",", ";", "|", "::", " "], ENCODINGS)
    damaged = draw(st.integers(0, 3)) == 0
    if damaged:
        content = damage(draw, content, separator)
    others = {}
    for kind in draw(st.lists(st.sampled_from(["user", "item"]), unique=True, max_size=2)):
        extra = draw(st.sampled_from(["age:float", "title:token_seq", "class:token"]))
        rows = [
            f"{kind}_id:token{separator}{extra}",
            *(f"{letter}{separator}{draw(st.sampled_from(NUMBERS))}" for letter in ("u0", "i1")),
        ]
        text = "\n".join(rows).encode(encoding, errors="replace")
        others[kind] = damage(draw, text, separator) if draw(st.integers(0, 3)) == 0 else text
    columns = {name: kinds[name] for name in ("user", "item", "time")}
    return Table(content, separator, encoding, columns, damaged), others


@st.composite
def anybodys_tables(draw: Draw) -> Table:
    """Draw a CSV, TSV or Parquet file, perhaps packed, and sometimes damaged."""
    frame = interactions(draw)
    frame["title"] = [f"Café №{each}" for each in frame.item]
    called = {"user": "customer", "item": "sku", "time": "bought at", "rating": "stars", "title": "name"}
    for name in draw(st.lists(st.sampled_from(["time", "rating", "title"]), unique=True, max_size=3)):
        del called[name]
    frame = frame[draw(st.permutations(list(called)))].rename(columns=called)
    damaged = draw(st.integers(0, 2)) == 0
    if draw(st.integers(0, 4)) == 0:
        buffer = io.BytesIO()
        frame.to_parquet(buffer)
        content, separator, encoding = buffer.getvalue(), "parquet", "utf-8"
    else:
        content, separator, encoding = as_bytes(draw, frame, [",", ",", "\t", ";", "|"], ENCODINGS)
    if damaged:
        content = damage(draw, content, "," if separator == "parquet" else separator)
    if draw(st.integers(0, 4)) == 0:
        content = gzip.compress(content)
        if damaged and draw(st.booleans()):
            content = damage(draw, content, ",")
    return Table(content, separator, encoding, called, damaged)
