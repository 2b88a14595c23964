"""Atomic files are read as they are written, for RecBole's own models as for ours."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.config import Config

from recbole_vae.cli.main import main
from recbole_vae.errors import ConfigError, DataError
from tests.conftest import Builder, random_rows, write_inter

MODELS = pytest.mark.parametrize("model", ["MultVAE", "Pop"])


def made(build: Builder, model: str, **options: Any) -> Any:
    from recbole.data import create_dataset

    if model == "MultVAE":
        return build(**options).dataset
    return create_dataset(Config(model=model, dataset=options.pop("dataset"), config_dict=options))


def pairs(data: Any) -> list[tuple[str, str]]:
    names = [data.id2token(field, np.asarray(data.inter_feat[field])).tolist() for field in ("user_id", "item_id")]
    return sorted(zip(*names, strict=True))


def titled() -> list[tuple[str, str]]:
    """Ids with marks at the start, in the middle and at the end, which swallow lines if they enclose cells."""
    forms = ('"Great Performances" Cats ({})', '"open {}', '{} closed"', 'a "b" {}', '"{}"', '"a ""b"" {}"')
    return [(f'"{user}', forms[int(item[1:]) % len(forms)].format(item)) for user, item in random_rows()]


@MODELS
def test_quotation_marks_between_tabs_are_part_of_ids(
    build: Builder, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = titled()
    data = made(build, model, dataset="tiny", data_path=write_inter(rows))
    assert pairs(data) == sorted(rows)
    assert "Kept quotation marks in tiny.inter as they are written (exact_ids: False drops them)." in caplog.text
    caplog.clear()
    write_inter(random_rows())
    made(build, model, dataset="tiny", data_path="data")
    assert "quotation marks" not in caplog.text


@MODELS
def test_exact_ids_false_is_recboles_reading(build: Builder, model: str) -> None:
    rows = [(f'"{user}"', item) for user, item in random_rows()]
    data = made(build, model, dataset="tiny", data_path=write_inter(rows), exact_ids=False)
    assert pairs(data) == sorted(random_rows())


@MODELS
def test_cells_of_csv_are_enclosed(build: Builder, model: str) -> None:
    rows = [(f'{user}, "the {user}"', item) for user, item in random_rows()]
    text = io.StringIO("user_id:token,item_id:token\n")
    text.seek(0, io.SEEK_END)
    csv.writer(text, lineterminator="\n").writerows(rows)
    path = Path("data/tiny/tiny.inter")
    path.parent.mkdir(parents=True)
    path.write_text(text.getvalue())
    assert pairs(made(build, model, dataset="tiny", data_path="data", field_separator=",")) == sorted(rows)
    plain = ["user_id:token,item_id:token", *map(",".join, random_rows())]
    for bad, message in (('"open,i1', "unexpected end of data"), ('"u" x,i1', "',' expected after")):
        path.write_text("\n".join([*plain[:6], bad, *plain[6:], ""]))
        with pytest.raises(DataError, match=f"tiny.inter, line 7: {message}"):
            made(build, model, dataset="tiny", data_path="data", field_separator=",")


@MODELS
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_every_encoding_is_read(build: Builder, model: str, encoding: str) -> None:
    rows = [(f"é{user}", item) for user, item in random_rows()]
    path = Path(write_inter(rows)) / "tiny" / "tiny.inter"
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding=encoding)
    assert pairs(made(build, model, dataset="tiny", data_path="data", encoding=encoding)) == sorted(rows)
    path.write_text(text.replace("\n", "\nu\n", 2), encoding=encoding)
    with pytest.raises(DataError, match="tiny.inter, line 2: 1 column instead of 2"):
        made(build, model, dataset="tiny", data_path="data", encoding=encoding)


@MODELS
def test_the_encoding_is_named_where_the_file_tells_it(build: Builder, model: str) -> None:
    path = Path(write_inter(random_rows())) / "tiny" / "tiny.inter"
    path.write_text(path.read_text(), encoding="utf-16")
    advice = r"save it as utf-8, or train with the option encoding set to utf-16\."
    with pytest.raises(DataError, match=rf"line 1: not text of encoding utf-8 .*; {advice}"):
        made(build, model, dataset="tiny", data_path="data")


@MODELS
def test_a_tab_may_be_written_as_two_letters(build: Builder, model: str) -> None:
    write_inter(random_rows())
    data = made(build, model, dataset="tiny", data_path="data", field_separator="\\t")
    assert pairs(data) == sorted(random_rows())


@MODELS
def test_another_separator_than_that_of_the_file_is_one_line(build: Builder, model: str) -> None:
    write_inter(random_rows())
    with pytest.raises(
        DataError, match=r"line 1: .* is not a column; there must be columns 'name:type' separated by '::'"
    ):
        made(build, model, dataset="tiny", data_path="data", field_separator="::")


@MODELS
def test_a_header_that_comes_again_is_no_user(build: Builder, model: str) -> None:
    rows = random_rows()
    write_inter([*rows[:5], ("user_id:token", "item_id:token"), *rows[5:]])
    with pytest.raises(
        DataError, match=r"tiny\.inter, line 7: the names of the columns are repeated; remove this line"
    ):
        made(build, model, dataset="tiny", data_path="data")


@MODELS
def test_files_of_items_are_read_as_written_and_only_if_they_are_needed(build: Builder, model: str) -> None:
    path = write_inter(random_rows())
    items = Path(path) / "tiny" / "tiny.item"
    lines = [f'{item}\t"open a b' for item in sorted({item for _, item in random_rows()})]
    items.write_text("\n".join(["item_id:token\ttitle:token_seq", *lines, ""]))
    data = made(build, model, dataset="tiny", data_path=path, load_col=None)
    assert len(data.item_feat) == len(lines) + 1  # with the padding
    assert '"open' in data.field2token_id["title"]
    items.write_text("\n".join(["item_id:token\ttitle:token_seq", *lines[:3], "i1\ta\tb", *lines[3:], ""]))
    with pytest.raises(DataError, match=r"tiny\.item, line 5: 3 columns instead of 2"):
        made(build, model, dataset="tiny", data_path=path, load_col=None)
    made(build, model, dataset="tiny", data_path=path)
    items.write_bytes(b"\xff nothing that could be read")
    made(build, model, dataset="tiny", data_path=path)


@MODELS
def test_ids_are_tokens(build: Builder, model: str) -> None:
    write_inter([(user, f"{item[1:]}.0") for user, item in random_rows()], columns="user_id:token\titem_id:float")
    with pytest.raises(DataError, match=r"tiny\.inter, line 1: 'item_id:float' holds ids; write 'item_id:token'"):
        made(build, model, dataset="tiny", data_path="data")


def test_the_file_that_trained_a_model_is_a_file_of_histories(
    build: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = titled()
    path = write_inter(rows)
    run = build(dataset="tiny", data_path=path)
    run.fit()
    files = [f"--checkpoint={run.trainer.saved_model_file}", f"--histories={path}/tiny/tiny.inter"]
    assert main(["recommend", *files, "-k=2", "--out=first.csv"]) == 0
    assert "Left out" not in capsys.readouterr().err
    with Path("first.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert {each["user_id"] for each in found} == {user for user, _ in rows}
    assert {each["item_id"] for each in found} <= {item for _, item in rows}
    assert main(["recommend", files[0], "--histories=first.csv", "-k=2", "--out=second.csv"]) == 0  # and the way back
    assert "Left out" not in capsys.readouterr().err


@MODELS
def test_a_path_is_no_name_of_a_data_set(model: str) -> None:
    write_inter(random_rows())
    Path("shop.csv").write_text("customer,sku\n")
    for name, way in (
        (
            f"{Path.cwd()}/shop.csv",
            f"make a data set of this file by: recbole-vae prepare NAME {Path.cwd()}/shop.csv --user=",
        ),
        (f"{Path.cwd()}/data/tiny", f"pass --dataset=tiny --data_path={Path.cwd()}/data, for the file "),
        (f"{Path.cwd()}/data/tiny/tiny.inter", f"pass --dataset=tiny --data_path={Path.cwd()}/data."),
        ("tiny/", "pass --dataset=tiny --data_path=data, for the file data/tiny/tiny.inter."),
        ("more/tiny", "pass --dataset=tiny --data_path=data/more, for the file data/more/tiny/tiny.inter."),
    ):
        with pytest.raises(ConfigError) as error:
            Config(model=model, dataset=name, config_dict={"data_path": "data"})
        assert f"dataset: '{name}' is a path, and a data set is named without its folder; {way}" in str(error.value)


@MODELS
def test_a_config_file_may_be_given_as_a_text(model: str) -> None:
    write_inter(random_rows())
    Path("p.yaml").write_text("epochs: 7\ndata_path: data\n")
    Path("q.yaml").write_text("epochs: 8\n")
    assert Config(model=model, dataset="tiny", config_file_list="p.yaml")["epochs"] == 7
    assert Config(model=model, dataset="tiny", config_file_list="p.yaml q.yaml")["epochs"] == 8


def test_a_file_in_the_way_of_recboles_logs_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_inter(random_rows())
    Path("log").write_text("mine")
    assert main(["run", "--model=Pop", "--dataset=tiny", "--data_path=data"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {Path.cwd()}/log: a file is where RecBole needs a folder, for its logs; rename")
    assert Path("log").read_text() == "mine"


def test_standard_streams_are_utf_8_whatever_the_platform_says() -> None:
    import os
    import subprocess
    import sys

    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "recbole_vae", "café"], env=environment, capture_output=True, check=False, timeout=100
    )
    assert "'café' is not a command" in done.stderr.decode("utf-8")


@pytest.mark.parametrize("model", ["MultVAE", "BPR"])
def test_a_separator_of_several_characters_is_no_expression(build: Builder, model: str) -> None:
    rows = [(user, item, "4.5") for user, item in random_rows()]
    rows[3] = (" u|0 ", rows[3][1], "nan")
    for separator in ("::", "||", "\\d"):
        lines = [separator.join(row) for row in [("user_id:token", "item_id:token", "rating:float"), *rows]]
        Path("data/tiny").mkdir(parents=True, exist_ok=True)
        file = Path("data/tiny/tiny.inter")
        file.write_text("\r\n".join(lines), encoding="utf-8")
        options: dict[str, Any] = {"data_path": "data", "field_separator": separator, "value_field": "rating"}
        if model == "BPR":
            options = {**options, "load_col": {"inter": ["user_id", "item_id", "rating"]}}
            del options["value_field"]
            run = build(model, "tiny", **options)
            assert set(run.dataset.field2id_token["user_id"][1:]) == {user for user, _, _ in rows}
        for bad, message in (
            (f"a{separator}b", "2 columns instead of 3"),
            (f"a{separator}b{separator}five", "'five' in"),
        ):
            file.write_text("\r\n".join([*lines, bad]), encoding="utf-8")
            with pytest.raises(DataError, match=rf"^data/tiny/tiny.inter, line {len(lines) + 1}: {message}"):
                build(model, "tiny", **options)


def test_utf_16_without_its_mark_is_named(build: Builder) -> None:
    write_inter(random_rows())
    with pytest.raises(
        DataError, match=r"^data/tiny/tiny.inter, line 1: not text of encoding utf-16 \(.*BOM\); save it as"
    ):
        build(dataset="tiny", data_path="data", encoding="utf-16")
