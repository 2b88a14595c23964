"""Reading large files of interactions: by pyarrow or pandas, from text or Parquet, and from the cache."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType

from recbole_vae.cli.main import main
from recbole_vae.data import atomic, table
from recbole_vae.data.files import inter_file
from recbole_vae.errors import DataError
from recbole_vae.options import data as limits
from recbole_vae.storage import arrays
from recbole_vae.storage.arrays import read_arrays, write_arrays
from tests.conftest import Builder, random_rows, write_inter

TOKEN, FLOAT = FeatureType.TOKEN, FeatureType.FLOAT
COLUMNS = {"user_id": TOKEN, "item_id": TOKEN, "rating": FLOAT, "timestamp": FLOAT}
HEADER = "\t".join(f"{name}:{kind.value}" for name, kind in COLUMNS.items())
LOADED = {"load_col": {"inter": list(COLUMNS)}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SMALLEST_CACHED", 0)


def rated(seed: int = 0) -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(seed)
    return [(*row, rng.integers(1, 6), 1_600_000_000 + rng.integers(10**6)) for row in random_rows(seed=seed)]


def everything(run: Any) -> list[Any]:
    """Return all that the data are made of, bit for bit."""
    found: list[Any] = []
    for part in (run.dataset, *(loader._dataset for loader in (run.train, run.valid, run.test))):
        found.append({
            name: (str(values.dtype), values.tolist()) for name, values in part.inter_feat.interaction.items()
        })  # fmt: skip
        found += [{name: tokens.tolist() for name, tokens in part.field2id_token.items()}, part.field2type]
        found.append(part.field2token_id)
    found += [run.model.histories.indptr.tolist(), run.model.histories.indices.tolist()]
    found += [each.seen.indices.tolist() for each in (run.valid, run.test)]
    return found


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), max_size=3) | st.sampled_from(
    ["NA", "", "null", "nan", "01", "1", "1.0", '"a', 'b"', '""', " x", "é"]
)
NUMBER = st.sampled_from(["1", "2.5", "", "-3e2", "0.1", "1e-320", "123456789012345678", "NaN", " 4", "+5", "inf"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELL, CELL, NUMBER), max_size=12), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_pyarrow_reads_what_pandas_reads(tmp_path: Path, rows: list[tuple[str, ...]], end: str) -> None:
    path, columns = tmp_path / "a.inter", {"user": TOKEN, "item": TOKEN, "rating": FLOAT}
    lines = ["user:token\titem:token\trating:float", *("\t".join(row) for row in rows)]
    path.write_bytes("".join(line + end for line in lines).encode())
    ways = (atomic._by_arrow, atomic._by_pandas)
    by_arrow, by_pandas = (way(path, columns, list(columns), "\t", "utf-8") for way in ways)
    assert by_pandas is not None
    expected = pd.read_csv(
        path, sep="\t", names=list(columns), header=0, dtype={"user": object, "item": object, "rating": float}, quoting=3,
        float_precision="round_trip", skip_blank_lines=True,
    )  # fmt: skip
    for found in [by_pandas, *([] if by_arrow is None else [by_arrow])]:
        frame = pd.DataFrame(found)
        np.testing.assert_array_equal(frame["rating"], expected["rating"])
        for name in ("user", "item"):
            told = frame[name].astype(object)
            assert told[told.notna()].tolist() == expected[name][expected[name].notna()].tolist()
            assert told.isna().tolist() == expected[name].isna().tolist()


def test_pyarrow_is_used_and_leaves_what_it_cannot_read_to_pandas(tmp_path: Path) -> None:
    path = tmp_path / "a.inter"

    def by_arrow(content: bytes, separator: str = "\t", encoding: str = "utf-8") -> Any:
        path.write_bytes(content)
        return atomic._by_arrow(path, {"u": TOKEN, "r": FLOAT}, ["u", "r"], separator, encoding)

    path.write_text("u:token·r:float\na·1\n", encoding="utf-8")
    [row] = atomic.read_columns(path, {"u": TOKEN, "r": FLOAT}, ["u", "r"], "·", "utf-8").to_numpy().tolist()
    assert row == ["a", 1.0]
    pytest.importorskip("pyarrow", exc_type=ImportError)
    assert by_arrow(b"u:token\tr:float\r\na\t1\r\n") is not None
    assert by_arrow("u:token\tr:float\n\xe9\t1\n".encode()) is not None
    assert by_arrow(b"u:token\tr:float\na\rb\t1\n") is None
    assert by_arrow(b"u:token\tr:float\na\t1\r") is None
    assert by_arrow(b"u:token\tr:float\n\xe9\t1\n") is None
    assert by_arrow(b"u:token\tr:float\n\xe9\t1\n", encoding="latin-1") is None
    assert by_arrow(b"u:token\tr:float\n\0\t1\n") is None
    assert by_arrow(b'u:token,r:float\n"a",1\n', separator=",") is None
    assert by_arrow(b"u:token\tr:float\na\tb\n") is None
    assert by_arrow(b"u:token\tr:float\na\n") is None


@pytest.mark.usefixtures("small")
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6), order=st.sampled_from(["RO", "TO"]),
    split=st.sampled_from([{"RS": [0.8, 0.1, 0.1]}, {"LS": "valid_and_test"}, {"HU": [0.2, 0.2]}]),
    least=st.sampled_from(["[0,inf)", "[5,inf)"]), stars=st.sampled_from([None, {"rating": "[2,inf)"}]),
)  # fmt: skip
def test_from_the_cache_everything_is_the_same(
    build: Builder, seed: int, order: str, split: dict[str, Any], least: str, stars: Any
) -> None:
    rows = rated(seed)
    write_inter([*rows, *rows[:3], ("u1", "", 3, 4)], columns=HEADER)
    place = Path("data/tiny/tiny.inter.cache")
    place.unlink(missing_ok=True)
    options = {
        "eval_args": {"split": split, "order": "RO" if "HU" in split else order}, "topk": [2], "valid_metric": "MRR@2",
        "user_inter_num_interval": least, "val_interval": stars, **LOADED, "data_path": "data", "dataset": "tiny",
    }  # fmt: skip
    without = everything(build(**options, data_cache=False))
    assert not place.exists()
    assert everything(build(**options)) == without
    assert place.exists()
    assert everything(build(**options)) == without


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO):
        yield caplog


def read(path: Path, wanted: tuple[str, ...] = tuple(COLUMNS), cached: bool = True) -> pd.DataFrame:
    return table.read(path, COLUMNS, list(wanted), "\t", "utf-8", cached)


@pytest.fixture
def text(small: None) -> Path:
    write_inter(rated(), columns=HEADER)
    return Path("data/tiny/tiny.inter")


def names() -> list[str]:
    return sorted(path.name for path in Path("data/tiny").iterdir())


def test_small_files_leave_no_cache() -> None:
    write_inter(rated(), columns=HEADER)
    read(Path("data/tiny/tiny.inter"))
    assert names() == ["tiny.inter"]


def test_a_cache_is_used_for_the_same_bytes_only(text: Path, log: pytest.LogCaptureFixture) -> None:
    first = read(text)
    log.clear()
    pd.testing.assert_frame_equal(read(text), first)
    assert "Read tiny.inter from data/tiny/tiny.inter.cache" in log.text
    before, content = text.stat(), text.read_text()
    text.write_text(content.replace("u3\t", "u9\t"))  # the same size, and the same time
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (text.stat().st_size, text.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = read(text)
    assert "tiny.inter or how it is read has changed since. It is made anew." in log.text
    assert set(changed["user_id"]) == set(first["user_id"]) - {"u3"}
    log.clear()
    pd.testing.assert_frame_equal(read(text), changed)
    assert "It is made anew" not in log.text


def test_columns_that_a_cache_lacks_are_added(text: Path, log: pytest.LogCaptureFixture) -> None:
    read(text, ("user_id", "item_id", "rating"))
    assert list(read(text, ("user_id", "item_id", "timestamp"))) == ["user_id", "item_id", "timestamp"]
    assert "it lacks timestamp" in log.text
    log.clear()
    assert list(read(text, ("rating",))) == ["rating"]
    assert "Read tiny.inter from" in log.text


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "text", "another format"])
def test_a_damaged_cache_is_reported_and_made_anew(text: Path, log: pytest.LogCaptureFixture, damage: str) -> None:
    first, place = read(text), table.cache_of(text)
    content = place.read_bytes()
    if damage == "another format":
        about, arrays = read_arrays(place)
        about["made_from"]["format"] = 0
        write_arrays(place, about, arrays[:1])
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        place.write_bytes({"cut": content[:-100], "a bit": flipped, "empty": b"", "text": b"a" * 500}[damage])
    log.clear()
    pd.testing.assert_frame_equal(read(text), first)
    [warning] = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert warning.startswith(f"Not used: {place}: ")
    assert place.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_one_line(
    text: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        found = read(text)
    pd.testing.assert_frame_equal(found, read(text, cached=False))
    [warning] = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert warning.startswith(f"{table.cache_of(text)}: cannot write this file: No space left on device.")
    assert names() == ["tiny.inter"]


def test_a_folder_in_the_place_of_the_cache_is_one_line(text: Path, log: pytest.LogCaptureFixture) -> None:
    (place := table.cache_of(text)).mkdir()
    assert len(read(text)) == len(rated())
    [warning] = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert warning.startswith(f"{place}: cannot write this file: it is a folder. The file will be read again next time")


def test_a_folder_that_cannot_be_written_is_one_line(
    text: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", read_only)
    assert len(read(text)) == len(rated())
    [warning] = [each.getMessage() for each in log.records if each.levelno == logging.WARNING]
    assert "Read-only file system. The file will be read again next time (data_cache: False tries no cache)." in warning


def test_a_file_that_changes_while_it_is_read_leaves_no_cache(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = atomic.read_columns

    def changing(*args: Any) -> Any:
        found = original(*args)
        text.write_text(text.read_text() + "u1\ti1\t1\t1\n")
        return found

    monkeypatch.setattr(atomic, "read_columns", changing)
    read(text)
    assert not table.cache_of(text).exists()


def test_a_cache_that_another_run_replaces_is_read_whole(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(text)
    place = table.cache_of(text)
    other = place.with_name("other")
    write_arrays(other, {"another": "run"}, [np.arange(1000.0)] * 9)
    about, expected = read_arrays(place)

    def replacing(*args: Any) -> bytes:
        found = original(*args)
        other.replace(place)
        return found

    original = arrays.sha256
    monkeypatch.setattr(arrays, "sha256", replacing)
    again, found = read_arrays(place)
    assert again == about
    assert all((one == two).all() for one, two in zip(found, expected, strict=True))


def test_what_is_mapped_is_not_the_file(text: Path) -> None:
    read(text)
    before = table.cache_of(text).read_bytes()
    read(text)["rating"].array[:] = 7
    assert table.cache_of(text).read_bytes() == before
    assert not (read(text)["rating"] == 7).any()


def test_two_writers_leave_one_whole_cache(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_vae.storage import files

    # Processes differ by their ids, of which threads have only one.
    monkeypatch.setattr("recbole_vae.storage.files.os.getpid", threading.get_ident)
    monkeypatch.setattr(files, "leftovers", lambda path: [])
    barrier, found = threading.Barrier(2), []
    keep = table._keep

    def together(*args: Any) -> None:
        barrier.wait(20)
        keep(*args)

    monkeypatch.setattr(table, "_keep", together)
    threads = [threading.Thread(target=lambda: found.append(read(text))) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    pd.testing.assert_frame_equal(*found)
    assert names() == ["tiny.inter", "tiny.inter.cache"]
    pd.testing.assert_frame_equal(read(text), found[0])


def parquet(frame: Any, stem: str = "tiny", folder: str = "parquet", **options: Any) -> str:
    pytest.importorskip("pyarrow", exc_type=ImportError)  # its newest releases refuse an old NumPy
    path = Path(folder) / "tiny" / f"{stem}.inter.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False, **options)
    return folder


def as_frame(rows: list[tuple[Any, ...]]) -> Any:
    return pd.DataFrame(rows, columns=list(COLUMNS))


OPTIONS = {"dataset": "tiny", **LOADED, "eval_args": {"order": "TO"}}


@pytest.mark.parametrize("form", ["plain", "typed", "categories", "whole numbers", "small numbers"])
def test_parquet_is_the_same_data_set_as_text(build: Builder, form: str) -> None:
    rows = rated()
    frame = as_frame(rows)
    if form == "whole numbers":
        rows = [(int(user[1:]), int(item[1:]), *rest) for user, item, *rest in rows]
        frame = as_frame(rows)
    elif form == "typed":
        frame.columns = HEADER.split("\t")
    elif form == "categories":
        frame = frame.astype({"user_id": "category", "item_id": "category"})
    elif form == "small numbers":
        frame = frame.astype({"rating": "int8", "timestamp": "uint32"})
    text = everything(build(data_path=write_inter(rows, columns=HEADER), **OPTIONS))
    assert everything(build(data_path=parquet(frame), **OPTIONS)) == text


def test_parquet_has_missing_values_and_fixed_parts_as_text_does(build: Builder) -> None:
    rows = [*rated(), ("u1", None, 3, 4), ("u2", "NA", 3, 4), ("u2", "i2", None, 5)]
    text = write_inter([["" if cell is None else cell for cell in row] for row in rows], columns=HEADER)
    assert everything(build(data_path=parquet(as_frame(rows)), **OPTIONS)) == everything(
        build(data_path=text, **OPTIONS)
    )
    rows, parts = rated(), ("train", "valid", "test")
    for number, part in enumerate(parts):
        write_inter(rows[number::3], columns=HEADER, part=part)
        parquet(as_frame(rows[number::3]), f"tiny.{part}")
    fixed = {"dataset": "tiny", **LOADED, "benchmark_filename": list(parts)}
    assert everything(build(data_path="parquet", **fixed)) == everything(build(data_path="data", **fixed))


def test_a_filter_means_the_column_of_the_parquet_file(build: Builder) -> None:
    rows = rated()
    users = "\n".join(["user_id:token\trating:float", *(f"u{number}\t{number % 5}" for number in range(40))])
    found = []
    for way in ("text", "parquet"):
        folder = write_inter(rows, columns=HEADER, folder=way) if way == "text" else parquet(as_frame(rows), folder=way)
        Path(folder, "tiny/tiny.user").write_text(users)
        run = build(data_path=folder, dataset="tiny", val_interval={"rating": "[3,inf)"})
        found.append(run.dataset.inter_feat["rating"].tolist())
    assert found[0] == found[1]
    assert sorted(found[1]) == sorted(float(row[2]) for row in rows if row[2] >= 3)


def test_parts_may_have_different_columns(build: Builder) -> None:
    rows, parts = rated(), ("train", "valid", "test")
    for number, part in enumerate(parts):
        some = [row if number < 2 else (*row[:2], row[3]) for row in rows[number::3]]
        write_inter(some, columns=HEADER if number < 2 else HEADER.replace("\trating:float", ""), part=part)
    run = build(data_path="data", dataset="tiny", load_col=None, benchmark_filename=list(parts))
    ratings = [row[2] for number in (0, 1) for row in rows[number::3]]
    feat = run.test._dataset.inter_feat
    np.testing.assert_allclose(feat["rating"], np.mean(ratings), rtol=1e-6)
    assert sorted(feat["timestamp"].tolist()) == sorted(row[3] for row in rows[2::3])
    names = run.dataset.field2id_token["item_id"]
    assert sorted(names[feat["item_id"]]) == sorted(row[1] for row in rows[2::3])


def test_lists_of_tokens_may_share_the_numbers_of_items(build: Builder) -> None:
    path = write_inter(random_rows())
    lists = {f"i{number}": [f"i{number // 2}", f"x{number}"][: number % 3] for number in range(25)}
    lines = ["item_id:token\talike:token_seq", *(f"{item}\t{' '.join(alike)}" for item, alike in lists.items())]
    Path("data/tiny/tiny.item").write_text("\n".join(lines) + "\n")
    load = {"inter": ["user_id", "item_id"], "item": ["item_id", "alike"]}
    data = build("BPR", dataset="tiny", data_path=path, load_col=load, alias_of_item_id=["alike"]).dataset
    names, feat = data.field2id_token["item_id"], data.item_feat
    assert data.field2id_token["alike"] is names
    for item, alike in zip(feat["item_id"][1:], feat["alike"][1:], strict=True):
        assert [str(name) for name in names[alike[alike > 0].tolist()]] == lists.get(str(names[item]), [])


def test_parquet_times_are_exact(build: Builder) -> None:
    rows = [(user, item, 1, 1_600_000_000_000_000_000 + number) for number, (user, item) in enumerate(random_rows())]
    text = everything(build(data_path=write_inter(rows, columns=HEADER), **OPTIONS))
    assert everything(build(data_path=parquet(as_frame(rows)), **OPTIONS)) == text
    dates = as_frame(rows).astype({"timestamp": "datetime64[ns]"})
    assert everything(build(data_path=parquet(dates), **OPTIONS)) == text


def test_bad_parquet_is_refused(build: Builder) -> None:
    def fails(message: str, **columns: Any) -> None:
        frame = as_frame(rated())
        for name, values in columns.items():
            frame[name] = [values] * len(frame) if isinstance(values, list) else values
        with pytest.raises(DataError, match=message):
            build(data_path=parquet(frame), **OPTIONS)

    fails("column 'user_id' holds double, and ids are strings or whole numbers", user_id=1.5)
    fails("column 'rating' holds lists", rating=[1.0, 2.0])
    fails("'rating' is of type|column 'rating'", **{"rating": pd.Timedelta(1)})
    whole = as_frame(rated())
    with pytest.raises(DataError, match="there is no column 'item_id'.*there are: user_id, rating, timestamp"):
        build(data_path=parquet(whole.drop(columns="item_id")), **OPTIONS)
    with pytest.raises(DataError, match="there are two columns 'rating'"):
        build(data_path=parquet(whole.assign(**{"rating:float": 1.0})), **OPTIONS)
    path = Path(parquet(whole)) / "tiny/tiny.inter.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"tiny.inter.parquet: cannot read this Parquet file"):
        build(data_path="parquet", **OPTIONS)
    (path.parent / "tiny.inter").touch()
    with pytest.raises(DataError, match="only one can count"):
        inter_file(path.parent, "tiny")


@pytest.mark.parametrize("mode", ["valid_and_test", "valid_only", "test_only"])
def test_leaving_one_out_is_recboles(build: Builder, mode: str) -> None:
    parts = []
    for split in (Dataset.leave_one_out, Dataset.leave_one_out.__wrapped__):
        data = build(data_path=write_inter([*random_rows(), ("once", "i3"), ("twice", "i3"), ("twice", "i4")])).dataset
        data.inter_feat = data.inter_feat[np.random.default_rng(0).permutation(len(data.inter_feat))]
        parts.append([part.inter_feat["item_id"].tolist() for part in split(data, "user_id", mode)])
    assert parts[0] == parts[1]


@pytest.mark.parametrize(
    ("users", "items"),
    [
        ("[3,inf)", "[4,inf)"),
        ("(4,9]", "[0,inf)"),
        ("[0,inf)", "[2,12);[20,inf)"),
        ("[7,8]", "[2,3]"),
    ],
)
@pytest.mark.parametrize("with_users", [False, True])
def test_filters_by_number_are_recboles(build: Builder, users: str, items: str, with_users: bool) -> None:
    path = write_inter(random_rows(seed=3))
    if with_users:
        lines = ["user_id:token\tage:float", *(f"u{number}\t{number}" for number in range(50))]
        Path("data/tiny/tiny.user").write_text("\n".join(lines) + "\n")
    load = {"inter": ["user_id", "item_id"], **({"user": ["user_id", "age"]} if with_users else {})}
    data = build(data_path=path, dataset="tiny", load_col=load).dataset
    found = []
    for filtered in (Dataset._filter_by_inter_num, Dataset._filter_by_inter_num.__wrapped__):
        data._get_preset()
        data._load_data("tiny", "data/tiny")
        data.config["user_inter_num_interval"], data.config["item_inter_num_interval"] = users, items
        filtered(data)
        known = None if data.user_feat is None else data.user_feat["user_id"].tolist()
        found.append((data.inter_feat.astype(str).to_numpy().tolist(), data.inter_feat.index.tolist(), known))
    assert found[0] == found[1]
    assert len(found[0][0]) > 0 or users == "[7,8]"


@pytest.mark.usefixtures("small")
def test_prepare_writes_the_cache(log: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["customer,sku,at", *(f"{user},{item},{number}" for number, (user, item) in enumerate(random_rows()))]
    Path("orders.csv").write_text("\n".join(lines))
    assert main(["prepare", "shop", "orders.csv", "--user=customer", "--item=sku", "--time=at"]) == 0
    assert "dataset/shop/shop.inter.cache: runs read the data from it in seconds" in capsys.readouterr().out
    log.clear()
    path, columns = Path("dataset/shop/shop.inter"), {"user_id": TOKEN, "item_id": TOKEN, "timestamp": FLOAT}
    found = table.read(path, columns, ["user_id", "item_id"], "\t", "utf-8")
    assert list(zip(found["user_id"], found["item_id"], strict=True)) == random_rows()
    assert "Read shop.inter from" in log.text
    assert "Reading" not in log.text
