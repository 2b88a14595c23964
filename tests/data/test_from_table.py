"""Tables of one's own: what is written and what is said, against pandas."""

from __future__ import annotations

import gzip
import io
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_vae.analysis.explain_report import read_item_texts
from recbole_vae.cli.main import main
from recbole_vae.data.from_table import Columns, Filters, FromTable, prepare_table
from recbole_vae.errors import ConfigError, DataError

ALL = Columns("customer", "sku", "bought_at", "rating", "title")


def purchases(lines: int = 600, seed: int = 0) -> pd.DataFrame:
    """Purchases with repeats: a few users and items occur once or twice only."""
    rng = np.random.default_rng(seed)
    users, items = rng.geometric(0.06, lines), rng.geometric(0.08, lines)
    return pd.DataFrame({
        "customer": [f"u{user}" for user in users], "sku": [f"i{item}" for item in items],
        "bought_at": 1_700_000_000 + rng.permutation(lines) * 7, "rating": rng.integers(1, 11, lines) / 2,
        "title": [f'Café "№{item}", or so' for item in items],
    })  # fmt: skip


def written(name: str = "shop") -> pd.DataFrame:
    return pd.read_csv(f"dataset/{name}/{name}.inter", sep="\t", quoting=3, dtype={"timestamp:float": str})


def filtered(frame: pd.DataFrame, keep: str, min_rating: float, min_user: int, min_item: int) -> pd.DataFrame:
    """Return what is right, by pandas."""
    frame = frame[frame.rating >= min_rating]
    pair = ["customer", "sku"]
    counts = frame.groupby(pair).size().rename("count")
    chosen = frame.sort_values("bought_at").drop_duplicates(pair, keep="last" if keep == "last" else "first").index
    frame = frame.loc[sorted(chosen)].join(counts, on=pair)
    while True:
        of_item, of_user = (frame.groupby(each)[each].transform("size") for each in ("sku", "customer"))
        left = frame[(of_item >= min_item) & (of_user >= min_user)]
        if len(left) == len(frame):
            return left
        frame = left


@pytest.mark.parametrize("keep", ["first", "last", "count"])
@pytest.mark.parametrize(("min_rating", "min_user", "min_item"), [(0, 1, 1), (2, 5, 5), (1.5, 7, 3)])
def test_what_is_written_is_what_pandas_keeps(keep: str, min_rating: float, min_user: int, min_item: int) -> None:
    shop = purchases()
    shop.to_csv("shop.csv", index=False)
    result = prepare_table("shop", "shop.csv", "dataset", ALL, Filters(min_rating, min_user, min_item, keep))
    right = filtered(shop, keep, min_rating, min_user, min_item)
    found = written()
    assert list(found["user_id:token"]) == list(right.customer)
    assert list(found["item_id:token"]) == list(right.sku)
    assert list(found["timestamp:float"]) == list(map(str, right.bought_at))
    assert list(found["rating:float"]) == list(right.rating)
    assert ("count:float" in found) == (keep == "count")
    if keep == "count":
        assert list(found["count:float"]) == list(right["count"])
    assert (result.read, result.interactions) == (len(shop), len(right))
    assert (result.users, result.items) == (right.customer.nunique(), right.sku.nunique())
    dropped = sum(int(line.split()[0].replace(",", "")) for line in result.dropped)
    assert dropped == len(shop) - len(right)
    titles = read_item_texts("dataset/shop/shop.item")
    assert {item: text.name for item, text in titles.items()} == dict(zip(right.sku, right.title, strict=True))


def as_parquet(shop: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    shop.to_parquet(file)
    return file.getvalue()


FORMATS = {
    "comma": lambda shop: shop.to_csv(index=False).encode(),
    "windows": lambda shop: shop.to_csv(index=False, lineterminator="\r\n").encode("utf-8-sig"),
    "semicolon": lambda shop: shop.to_csv(index=False, sep=";").encode(),
    "tab": lambda shop: shop.to_csv(index=False, sep="\t").encode(),
    "tab, not quoted": lambda shop: shop.to_csv(index=False, sep="\t", quoting=3).encode(),
    "all quoted": lambda shop: shop.to_csv(index=False, quoting=1).encode(),
    "utf-16": lambda shop: shop.to_csv(index=False).encode("utf-16"),
    "gzip": lambda shop: gzip.compress(shop.to_csv(index=False).encode()),
    "gzip of utf-16 with tabs": lambda shop: gzip.compress(shop.to_csv(index=False, sep="\t").encode("utf-16")),
    "parquet": as_parquet,
    "gzip of parquet": lambda shop: gzip.compress(as_parquet(shop)),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same(form: str) -> None:
    shop = purchases(60)
    Path("shop").write_bytes(FORMATS[form](shop))  # type: ignore[no-untyped-call]
    prepare_table("shop", "shop", "dataset", ALL)
    right = filtered(shop, "first", 0, 1, 1)
    found = written()
    assert list(found["user_id:token"]) == list(right.customer)
    assert list(found["timestamp:float"]) == list(map(str, right.bought_at))
    assert list(found["rating:float"]) == list(right.rating)
    assert {text.name for text in read_item_texts("dataset/shop/shop.item").values()} == set(right.title)


def test_an_encoding_can_be_given() -> None:
    Path("shop.csv").write_bytes("customer,sku\nJosé,café\nAna,thé\n".encode("cp1252"))
    with pytest.raises(
        DataError, match=r"^shop\.csv, line \d or later: not text in UTF-8 .*; set --encoding, for example"
    ):
        prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku"))
    prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku"), encoding="cp1252")
    assert Path("dataset/shop/shop.inter").read_text(encoding="utf-8").splitlines()[1:] == ["José\tcafé", "Ana\tthé"]
    with pytest.raises(ConfigError, match="^encoding: Python knows no encoding 'utf-9'"):
        prepare_table("shop2", "shop.csv", "dataset", Columns("customer", "sku"), encoding="utf-9")


MOMENT = pd.Timestamp("2024-02-29T23:59:58.123456789Z")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("1712633997", "1712633997"),
        ("1712633997.0", "1712633997"),
        ("1712633997.25", "1712633997.25"),
        ("1712633997123456789", "1712633997123456789"),
        ("-5", "-5"),
        ("-0.25", "-0.25"),
        ("-1.5", "-1.5"),
        ("1.712633997e9", "1712633997"),
        ("2024-02-29", str(pd.Timestamp("2024-02-29").value // 10**9)),
        ("2024-02-29 23:59", str(pd.Timestamp("2024-02-29 23:59").value // 10**9)),
        ("2024-02-29T23:59:58Z", str(MOMENT.value // 10**9)),
        ("2024-02-29 23:59:58 UTC", str(MOMENT.value // 10**9)),
        ("2024-02-29T23:59:58.123456789Z", f"{MOMENT.value // 10**9}.123456789"),
        ("2024-02-29T23:59:58.5+02:00", f"{pd.Timestamp('2024-02-29T23:59:58+02:00').value // 10**9}.5"),
        ("2024-02-29T23:59:58-0530", str(pd.Timestamp("2024-02-29T23:59:58-05:30").value // 10**9)),
        ("1969-12-31T23:59:59", "-1"),
    ],
)
def test_times_are_exact(text: str, right: str) -> None:
    Path("shop.csv").write_text(f"customer,sku,bought_at\nu,i,{text}\n")
    prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku", "bought_at"))
    assert list(written()["timestamp:float"]) == [right]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_times_of_parquet_are_unix_seconds(unit: str, zone: str | None) -> None:
    shop = purchases(60)
    times = pd.to_datetime(shop.bought_at, unit="s", utc=zone is not None).astype(
        f"datetime64[{unit}{', UTC' * bool(zone)}]"
    )
    shop.assign(bought_at=times.dt.tz_convert(zone) if zone else times).to_parquet("shop.parquet")
    prepare_table("shop", "shop.parquet", "dataset", ALL)
    assert list(written()["timestamp:float"]) == list(map(str, filtered(shop, "first", 0, 1, 1).bought_at))


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("start", [1_700_000_000_000_000_000, 1_700_000_000])
def test_a_nanosecond_decides_which_is_first(keep: str, start: int) -> None:
    times = [start + 1, start, start + 3, start + 2]
    Path("shop.csv").write_text("customer,sku,bought_at\n" + "".join(f"u,i,{each}\n" for each in times))
    prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku", "bought_at"), Filters(keep=keep))
    assert list(written()["timestamp:float"]) == [str(start if keep == "first" else start + 3)]


def test_ids_of_parquet_are_whole_numbers_and_missing_ones_are_counted() -> None:
    pd.DataFrame({"customer": [1.0, None, 3.0], "sku": pd.array([7, 8, None], "Int64")}).to_parquet("shop.parquet")
    result = prepare_table("shop", "shop.parquet", "dataset", Columns("customer", "sku"))
    assert Path("dataset/shop/shop.inter").read_text().splitlines()[1:] == ["1\t7"]
    assert result.dropped == [
        "1 line dropped: no user (an empty cell, or NA, null and the like).",
        "1 line dropped: no item (an empty cell, or NA, null and the like).",
    ]


def test_each_reason_has_a_line() -> None:
    rows = [
        "a,x,1,5,X", ",x,2,5,X", "a,NA,3,5,X", "a,y,,5,Y", "a,y,4,,Y", "a,y,5,1,Y", "customer,sku,bought_at,rating,title", "",
        "a,x,9,4,Other", "b,x,7,5,X", "b,z,8,5,", "c,x,9,5,X", "a,z,9,5,",
    ]  # fmt: skip
    Path("shop.csv").write_text("\n".join(["customer,sku,bought_at,rating,title", *rows]) + "\n")
    result = prepare_table("shop", "shop.csv", "dataset", ALL, Filters(min_rating=2, min_user=2))
    assert result.dropped == [
        "1 line dropped: the names of the columns, repeated.",
        "1 line dropped: no user (an empty cell, or NA, null and the like).",
        "1 line dropped: no item (an empty cell, or NA, null and the like).",
        "1 line dropped: no time (an empty cell, or NA, null and the like).",
        "1 line dropped: no rating (an empty cell, or NA, null and the like).",
        "1 line dropped: a rating below 2.",
        "1 item with more than one title, such as 'x': the first title is kept.",
        "1 line dropped: a repeated pair of user and item; the first by time is kept.",
        "1 line dropped: of 1 user with fewer than 2 items.",
    ]
    assert list(written()["item_id:token"]) == ["x", "x", "z", "z"]
    assert Path("dataset/shop/shop.item").read_text() == "item_id:token\ttitle:token_seq\nx\tX\nz\t\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "shop.csv: the file is empty; its first line must name the columns."),
        ("customer,sku,rating\n", "shop.csv: no interaction is left of 0."),
        ("customer,sku,rating\na,b,five\n", "shop.csv, line 2: 'five' in column 'rating' is not a number."),
        ("customer,sku,rating\na,b,inf\n", "shop.csv, line 2: 'inf' in column 'rating' is not a number."),
        ("customer,sku,rating\n\na,b\n", "shop.csv, line 3: 2 cells instead of 3, separated by ','."),
        ('customer,sku,rating\na,b,1\na,"c,2\nd,e,3\n', "shop.csv, line 3: unexpected end of data. A cell that begins with"),
        ('customer,sku,rating\na,"b" c,1\n', "shop.csv, line 2: ',' expected after '\"'. A cell that begins with"),
        ('customer,sku,rating\na,"b\nc",1\n', "shop.csv, line 2: 'b\\nc' in column 'sku' has a tab or a line break"),
        ("customer,sku,sku,rating\na,b,c,1\n", "shop.csv, line 1: there are 2 columns 'sku'; rename all but one."),
        ("customer,sku,rating\na,b,1\n".encode("utf-16-le"), "shop.csv: not text in UTF-8; set --encoding"),
        (b"PK\x03\x04rest", "shop.csv: a zip archive or an Excel file; unpack it, or save the sheet as CSV."),
        (gzip.compress(b"customer,sku,rating\na,b,1\n" * 999, mtime=0)[:-20], "shop.csv: damaged or not downloaded whole ("),
        (b"PAR1 and no more", "shop.csv: cannot read this Parquet file ("),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_and_leaves_nothing(text: str | bytes, message: str) -> None:
    Path("shop.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as error:
        prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku", rating="rating"))
    assert str(error.value).startswith(message)
    assert not Path("dataset").exists()


@pytest.mark.parametrize(
    "when", ["31/01/2024", "yesterday", "2024-13-01", "2024-01-01T25:00", "1_000", "inf", "12:30", "9" * 25]
)
def test_a_time_that_cannot_be_read_is_named(when: str) -> None:
    Path("shop.csv").write_text(f"customer,sku,bought_at\nu,i,{when}\n")
    with pytest.raises(
        DataError, match=r"^shop\.csv, line 2: '.*' in column 'bought_at' is (neither a number nor|too large)"
    ):
        prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku", "bought_at"))


def test_numbers_and_dates_do_not_mix() -> None:
    Path("shop.csv").write_text("customer,sku,bought_at\nu,i,1700000000\nu,j,2024-01-01\n")
    with pytest.raises(
        DataError, match=r"^shop\.csv, line 3: '2024-01-01' in column 'bought_at' is a date where others are"
    ):
        prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku", "bought_at"))


def test_parquet_without_pyarrow_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    purchases(9).to_parquet("shop.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"^shop\.parquet: to read Parquet, install pyarrow \(pip install pyarrow\)"):
        prepare_table("shop", "shop.parquet", "dataset", ALL)


def test_a_column_of_lists_is_refused() -> None:
    pd.DataFrame({"customer": [1], "sku": [[1, 2]]}).to_parquet("shop.parquet")
    with pytest.raises(ConfigError, match=r"^--item: the column 'sku' of shop\.parquet holds list<"):
        prepare_table("shop", "shop.parquet", "dataset", Columns("customer", "sku"))


COLUMNS = ["--user=customer", "--item=sku"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shop", "shop.csv"], "prepare: there is no published data set 'shop'. There are: ml-100k"),
        (["shop", "shop.csv", "--user=customer"], "--item (command line) is missing: the column with the items' ids."),
        (["shop", "shop.csv", "--min_user=5"], "--user (command line) is missing: the column with the users' ids."),
        (
            ["shop", "shop.csv", "--user=costumer", "--item=sku"],
            "--user: shop.csv has no column 'costumer'; did you mean cus",
        ),
        (
            ["shop", "shop.csv", "--user=sku", "--item=sku"],
            "--item: 'sku' is the column of --user already; name another.",
        ),
        (["shop", "shop.csv", *COLUMNS, "--min_rating=4"], "--min_rating needs --rating, the column with the ratings."),
        (
            ["shop", "shop.csv", *COLUMNS, "--keep=all"],
            "keep: 'all' (command line) is not allowed; it must be first or last",
        ),
        (["a/b", "shop.csv", *COLUMNS], "prepare: 'a/b' cannot be the name of a data set; it must be letters"),
        (["1st", "shop.csv", *COLUMNS], "prepare: '1st' cannot be the name of a data set; it must be letters"),
        (["ml-100k", "shop.csv", *COLUMNS], "prepare: RecBole takes its own copy for any data set named ml-100k"),
    ],
)
def test_mistakes_of_the_command_are_named(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    purchases(9).to_csv("shop.csv", index=False)
    assert main(["prepare", *arguments]) == 2
    assert f"error: {message}" in capfd.readouterr().err
    assert not Path("dataset").exists()


@pytest.mark.parametrize("more", [[], ["--keep=count", "--out=my data"], ["--min_item=40"]])
def test_from_the_table_to_a_result(more: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    purchases(1500).to_csv("shop.csv", index=False)
    assert main(["prepare", "shop", "shop.csv", *COLUMNS, "--time=bought_at", "--title=title", *more]) == 0
    out = capfd.readouterr().out
    folder = "my data/shop" if len(more) == 2 else "dataset/shop"
    assert out.startswith(f"{folder}: ")
    assert " lines dropped: a repeated pair of user and item; the first by time is kept" in out
    _, *suggested = shlex.split(out.splitlines()[-1].partition("recbole_vae ")[2])
    fast = ["--epochs=1", "--mlp_hidden_size=[8]", "--latent_dimension=4"]
    assert main(["run", *suggested, *fast]) == 0
    assert "test part, best epoch" in capfd.readouterr().out


def test_nothing_is_suggested_where_nothing_can_be_trained(capfd: pytest.CaptureFixture[str]) -> None:
    Path("shop.csv").write_text("customer,sku\na,b\n")
    assert main(["prepare", "shop", "shop.csv", *COLUMNS]) == 0
    assert capfd.readouterr().out.splitlines()[1:] == ["Too small to train on: RecBole needs 2 users and 2 items."]


def test_a_killed_run_leaves_nothing_in_the_way() -> None:
    shop = purchases(30_000)
    shop.to_csv("shop.csv", index=False)
    command = [sys.executable, "-m", "recbole_vae", "prepare", "shop", "shop.csv", *COLUMNS]
    for delay in (0.05, 0.2, 0.4):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        running.wait()
        if Path("dataset/shop").exists():  # done before
            break
    else:
        assert main(command[3:]) == 0
    assert [each.name for each in Path("dataset").iterdir()] == ["shop"]
    assert len(written()) == len(shop.drop_duplicates(["customer", "sku"]))


def test_memory_holds_no_text_of_the_lines() -> None:
    """Long lines: what is kept of each is 8 bytes for the user, the item and the order."""
    import tracemalloc

    Path("shop.csv").write_text(
        "customer,sku,note\n" + "".join(f"u{n % 50},i{n % 70},{'x' * 500}\n" for n in range(20_000))
    )
    tracemalloc.start()
    prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < Path("shop.csv").stat().st_size / 2


def result_of(**options: Any) -> FromTable:
    return prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku"), **options)


def test_ids_are_written_as_they_are() -> None:
    Path("shop.csv").write_text('customer,sku\n007,"""Great"" Cats, 1"\n7,\'x\'\n 07 ,#1\n', encoding="utf-8")
    assert result_of().users == 3
    assert Path("dataset/shop/shop.inter").read_text().splitlines()[1:] == ['007\t"Great" Cats, 1', "7\t'x'", "07\t#1"]


def test_parquet_that_was_cut_or_changed_is_one_line() -> None:
    purchases().to_parquet("shop.parquet")
    content = bytearray(Path("shop.parquet").read_bytes())
    content[4:60] = bytes(56)
    Path("shop.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^shop\.parquet: cannot read this Parquet file \(.*[^. ]\)\.$"):
        prepare_table("shop", "shop.parquet", "dataset", ALL)


def test_utf_16_without_its_mark_is_one_line() -> None:
    Path("shop.csv").write_bytes("customer,sku\na,b\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"^shop\.csv, line 1 or later: not text in UTF-16 \(.*BOM\)"):
        prepare_table("shop", "shop.csv", "dataset", Columns("customer", "sku"), encoding="utf-16")
