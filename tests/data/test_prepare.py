"""Data sets as their owners publish them: small files of the same layout, byte for byte, made here."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from recbole_vae.analysis.explain import ItemText
from recbole_vae.analysis.explain_report import read_item_texts
from recbole_vae.cli.main import main
from recbole_vae.data.prepare import MARK, NAMES, SOURCES, prepare
from recbole_vae.errors import DataError
from recbole_vae.options.evaluation import check_eval_args, check_metrics
from recbole_vae.storage.files import temporary_beside

Rating = tuple[int, int, float, int]


def ratings(users: int = 12, items: int = 9) -> list[Rating]:
    """Ratings of 1 to 5; of users above 8 too few count."""
    return [
        (user, 100 + item, 1 + (user * 3 + item * 2) % 5 if user < 9 else 1 + item % 3, 964982703 + user * 60 + item)
        for user in range(1, users)
        for item in range(items)
    ]


def kept(rows: list[Rating], least: float = 4, min_items: int = 5) -> list[Rating]:
    good = [row for row in rows if row[2] >= least]
    counts = Counter(row[0] for row in good)
    return [row for row in good if counts[row[0]] >= min_items]


def zipped(path: str, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return Path(path)


def tabbed(rows: list[Rating]) -> str:
    return "".join(f"{user}\t{item}\t{rating:g}\t{time}\n" for user, item, rating, time in rows)


def colons(rows: list[Rating]) -> str:
    return "".join(f"{user}::{item}::{rating:g}::{time}\n" for user, item, rating, time in rows)


def table(rows: list[Rating]) -> str:
    return "userId,movieId,rating,timestamp\r\n" + "".join(
        f"{user},{item},{rating:.1f},{time}\r\n" for user, item, rating, time in rows
    )


def many() -> list[Rating]:
    return [
        (user, item, 1 + (user * 3 + item * 2) % 5, 964982703 + user * 60 + item)
        for user in range(1, 12)
        for item in range(30)
    ]


def written(name: str) -> list[list[str]]:
    name = NAMES.get(name, name)
    lines = (Path("out") / name / f"{name}.inter").read_text().splitlines()
    return [line.split("\t") for line in lines]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ml-100k", lambda: zipped("s.zip", **{"ml-100k__u_dot_data": tabbed(many()), "ml-100k__u_dot_item": "1|x\n"})),
        ("ml-1m", lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": colons(many()), "ml-1m__README": "x"})),
        ("ml-10m", lambda: zipped("s.zip", **{"ml-10M100K__ratings_dot_dat": colons(many())})),
        ("ml-20m", lambda: zipped("s.zip", **{"ml-20m__ratings_dot_csv": table(many()), "ml-20m__tags_dot_csv": "x"})),
    ],
)
def test_movielens(name: str, make: object) -> None:
    source = make()  # type: ignore[operator]
    result = prepare(name, source, "out")
    rows = kept(many())
    assert written(name) == [
        ["user_id:token", "item_id:token", "timestamp:float"],
        *([str(user), str(item), str(time)] for user, item, _, time in rows),
    ]
    assert (result.interactions, result.users) == (len(rows), len({row[0] for row in rows}))
    assert result.read == len(many())
    assert len(result.differences) == (3 if name == "ml-20m" else 1)
    assert [path.name for path in Path("out").iterdir()] == [NAMES.get(name, name)]


def named(name: str) -> list[str]:
    return (Path("out") / name / f"{name}.item").read_text(encoding="utf-8").splitlines()


HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"


@pytest.mark.parametrize(("name", "encoding"), [("ml-1m", "latin-1"), ("ml-10m", "utf-8")])
def test_names_of_movies_stand_beside_the_data(name: str, encoding: str) -> None:
    movies = (
        "1::Misérables, Les (1995)::Drama|Musical\n2::Tube, The::Children's\n3::A (b) (1999)::(no genres listed)\n"
        "999::Nobody Has It (2000)::Drama\n"
    )
    Path("ml").mkdir()
    Path("ml/ratings.dat").write_text(colons(many()))
    Path("ml/movies.dat").write_bytes(movies.encode(encoding))
    prepare(name, "ml", "out")
    assert named(name) == [
        HEADER,
        "1\tMisérables, Les\t1995\tDrama Musical",
        "2\tTube, The\t\tChildren's",
        "3\tA (b)\t1999\t",
    ]
    assert read_item_texts(f"out/{name}/{name}.item") == {
        "1": ItemText("Misérables, Les (1995)", "Drama Musical"),
        "2": ItemText("Tube, The", "Children's"),
        "3": ItemText("A (b) (1999)", ""),
    }


def test_names_of_ml_20m_are_in_csv() -> None:
    movies = (
        'movieId,title,genres\r\n1,Toy Story (1995),Adventure|Animation\r\n2,"American President, The (1995)",Comedy\r\n'
        '3,"""Great Performances"" Cats (1998)",Musical\r\n'
    )
    members = {"ml-20m__ratings_dot_csv": table(many()), "ml-20m__movies_dot_csv": movies}
    prepare("ml-20m", zipped("s.zip", **members), "out")
    assert named("ml-20m") == [
        HEADER,
        "1\tToy Story\t1995\tAdventure Animation",
        "2\tAmerican President, The\t1995\tComedy",
        '3\t"Great Performances" Cats\t1998\tMusical',
    ]


def test_what_a_killed_process_left_is_removed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    mine = temporary_beside(Path("out/ml-1m"))
    dead, alive = (
        mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{process}."))
        for process in (int(done.stdout), os.getppid())
    )
    for folder in (dead, alive, mine):
        folder.mkdir(parents=True)
    prepare("ml-1m", zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD}), "out")
    assert {path.name for path in Path("out").iterdir()} == {"ml-1m", alive.name}


def test_a_file_or_folder_out_of_the_archive_will_do() -> None:
    Path("ml-1m").mkdir()
    Path("ml-1m/ratings.dat").write_text(colons(many()))
    prepare("ml-1m", "ml-1m", "out")
    first = written("ml-1m")
    prepare("ml-1m", "ml-1m/ratings.dat", "other")
    assert (Path("other") / "ml-1m" / "ml-1m.inter").read_text().splitlines() == ["\t".join(row) for row in first]


def netflix_files() -> dict[str, str]:
    """Of each movie a file, as in the archive of the prize."""
    files = {}
    for movie in range(1, 21):
        lines = [f"{1488844 + user},{1 + (user + movie) % 5},2005-09-0{1 + user % 9}" for user in range(20)]
        files[f"mv_{movie:07}.txt"] = f"{movie}:\n" + "\n".join(lines) + "\n"
    return files


def test_netflix_in_its_archive_of_an_archive_and_as_four_files() -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        for name, text in netflix_files().items():
            info = tarfile.TarInfo(f"training_set/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    with tarfile.open("nf_prize_dataset.tar.gz", "w:gz") as archive:
        for name, content in (("download/training_set.tar", inner.getvalue()), ("download/README", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    result = prepare("netflix", "nf_prize_dataset.tar.gz", "out")
    rows = written("netflix")[1:]
    good = {
        (str(1488844 + user), str(movie)) for movie in range(1, 21) for user in range(20) if 1 + (user + movie) % 5 >= 4
    }
    counts = Counter(user for user, _ in good)
    assert {(user, item) for user, item, _ in rows} == {pair for pair in good if counts[pair[0]] >= 5}
    assert result.users == len({row[0] for row in rows})
    assert {row[2] for row in rows} <= {str(1125532800 + 86400 * day) for day in range(9)}  # from 2005-09-01

    texts = list(netflix_files().values())
    Path("kaggle").mkdir()
    Path("kaggle/combined_data_1.txt").write_text("".join(texts[:4]))
    Path("kaggle/combined_data_2.txt").write_text("".join(texts[4:]))
    prepare("netflix", "kaggle", "other")
    other = (Path("other") / "netflix" / "netflix.inter").read_text().splitlines()[1:]
    assert sorted(other) == sorted("\t".join(row) for row in rows)


def test_msd_filters_songs_first_and_then_users() -> None:
    pairs = [(user, song) for user in range(230) for song in range(25) if song < 20 or user < 178 + song]
    pairs += [(999, song) for song in range(20, 45)]
    text = "".join(f"user{user}\tSO{song}\t{1 + song % 3}\n" for user, song in pairs)
    prepare("msd", zipped("train_triplets.txt.zip", train_triplets_dot_txt=text), "out")
    songs = {song for song, number in Counter(song for _, song in pairs).items() if number >= 200}
    assert songs == {*range(20), 21, 22, 23, 24}  # of song 20 there are 199, of song 21 are 200
    good = [pair for pair in pairs if pair[1] in songs]
    counts = Counter(user for user, _ in good)
    assert written("msd") == [
        ["user_id:token", "item_id:token"],
        *([f"user{user}", f"SO{song}"] for user, song in good if counts[user] >= 20),
    ]


def test_gowalla() -> None:
    with gzip.open("loc-gowalla_totalCheckins.txt.gz", "wt") as file:
        file.write("0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n")
        file.write("0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315\n")
    prepare("gowalla", "loc-gowalla_totalCheckins.txt.gz", "out")
    assert written("gowalla")[1:] == [["0", "22847", "1287532527"], ["0", "420315", "1287440263"]]


def cut_short(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def broken_gzip() -> Path:
    with gzip.open("x_totalCheckins.txt.gz", "wt") as file:
        file.write("0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847\n" * 9999)
    return cut_short(Path("x_totalCheckins.txt.gz"))


GOOD = colons(many())


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("ml-1m", lambda: Path("gone.zip"), "gone.zip: there is no such file or folder."),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-20m__ratings_dot_csv": table(many())}),
            "s.zip: has no file ratings.dat, where ml-1m has its interactions. It looks like ml-20m.",
        ),
        (
            "ml-1m",
            lambda: cut_short(zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD * 50})),
            "s.zip: damaged or not downloaded whole (no whole",
        ),
        ("gowalla", broken_gzip, "x_totalCheckins.txt.gz: damaged or not downloaded whole"),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD + "7::8::5"}),
            "s.zip, ml-1m/ratings.dat, line 331: 3 columns instead of 4, separated by '::'. Is it ml-1m",
        ),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": "1::2::five::3\n"}),
            "s.zip, ml-1m/ratings.dat, line 1: could not convert string to float: 'five'.",
        ),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD, "ml-1m__movies_dot_dat": "1::A::B\n2::C\n"}),
            "s.zip, ml-1m/movies.dat, line 2: 2 columns instead of 3",
        ),
        (
            "ml-20m",
            lambda: zipped("s.zip", **{"ml-20m__ratings_dot_csv": table(many()), "ml-20m__movies_dot_csv": "1,A,B\n"}),
            "s.zip, ml-20m/movies.csv, line 1: the first line is '1,A,B', not 'movieId,title,genres'.",
        ),
        (
            "ml-20m",
            lambda: zipped("s.zip", **{"ml-20m__ratings_dot_csv": "1,2,5,3\n"}),
            "s.zip, ml-20m/ratings.csv, line 1: the first line is '1,2,5,3', not 'userId,movieId,rating,timestamp'.",
        ),
        (
            "netflix",
            lambda: zipped("s.zip", mv_0000001_dot_txt="1:\n5,5,2005-13-01\n"),
            "s.zip, mv_0000001.txt, line 2: time data '2005-13-01' does not match format",
        ),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": "1::2::::3\n"}),
            "s.zip, ml-1m/ratings.dat, line 1: could not convert string to float: ''.",
        ),
        (
            "ml-1m",
            lambda: zipped("s.zip", **{"ml-1m__ratings_dot_dat": "1::2::5::3\n1::3::nan::3\n"}),
            "s.zip, ml-1m/ratings.dat, line 2: 'nan' where a number should be.",
        ),
        ("ml-1m", lambda: zipped("s.zip", **{"a__ratings_dot_dat": "1::2::5::3\n"}), "s.zip: no interaction is left"),
    ],
)
def test_a_bad_source_is_named_and_leaves_nothing(name: str, make: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        prepare(name, make(), "out")  # type: ignore[operator]
    assert str(error.value).startswith(message)
    assert not Path("out").exists()


def test_what_exists_is_not_overwritten() -> None:
    source = zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD})
    prepare("ml-1m", source, "out")
    with pytest.raises(DataError, match="^out/ml-1m: exists already; remove it, or choose another --out"):
        prepare("ml-1m", source, "out")
    assert Path("out/ml-1m/ml-1m.inter").exists()


def test_an_output_folder_that_cannot_be_is_named() -> None:
    source = zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD})
    with pytest.raises(DataError, match=r"^s\.zip/ml-1m: cannot be written \(Not a directory\)"):
        prepare("ml-1m", source, source)
    assert zipfile.is_zipfile(source)


def test_from_the_source_to_a_result_on_held_out_users(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows: list[Rating] = [
        (user, item, 4 + (user + item) % 2, user + item) for user in range(40) for item in range(0, 60, 2 + user % 7)
    ]
    zipped("ml-20m.zip", **{"ml-20m__ratings_dot_csv": table(rows)})
    assert main(["prepare", "ml-20m", "ml-20m.zip"]) == 0
    out = capfd.readouterr().out
    assert f"dataset/ml-20m: {len(rows):,} of {len(rows):,} interactions" in out
    assert f"NOT as published: {len(rows):,} interactions after filtering, and 9,990,682 are published" in out
    assert "Too small for the protocol in dataset/ml-20m/ml-20m.yaml: it holds out [10000, 10000] users and" in out
    _, *suggested = shlex.split(out.splitlines()[-1].partition("recbole_vae ")[2])
    assert "--dataset=ml-20m" in suggested
    assert main(["run", *suggested, "--epochs=1", "--mlp_hidden_size=[8]", "--latent_dimension=4"]) == 0
    caplog.clear()
    fast = ["--epochs=2", "--topk=[20]", "--valid_metric=NDCG@20"]
    small = {"MultVAE": ["--mlp_hidden_size=[8]", "--latent_dimension=4"], "EASE": []}
    apart = "--eval_args={'split': {'HU': [5, 5]}, 'mode': 'full'}"
    for model, sizes in small.items():
        assert main(["run", f"--model={model}", "--dataset=ml-20m", apart, *fast, *sizes]) == 0
        assert "Settings of the data set are those of dataset/ml-20m/ml-20m.yaml" in caplog.text
        caplog.clear()
        assert "truncatedrecall@20" in capfd.readouterr().out
    assert main(["run", "--model=MultVAE", "--dataset=ml-20m", *fast]) == 1
    assert "10000 and 10000 users cannot be kept apart: of 40 users" in (err := capfd.readouterr().err)
    assert "Set smaller numbers, or shares" in err
    assert "(Settings of the data set: dataset/ml-20m/ml-20m.yaml.)" in err
    assert main(["run", "--model=BPR", "--dataset=ml-20m", *fast]) == 2
    assert "BPR cannot score users who were not in the training data" in capfd.readouterr().err


def test_nothing_is_suggested_where_nothing_would_work(capsys: pytest.CaptureFixture[str]) -> None:
    zipped("s.zip", **{"ml-1m__ratings_dot_dat": GOOD})
    assert main(["prepare", "ml-1m", "s.zip"]) == 0
    out = capsys.readouterr().out
    assert "Too small for the protocol in dataset/ml-1m/ml-1m.yaml: it holds out [750, 750] users and ranks 100" in out
    assert "Try next" not in out


def test_a_users_own_file_beside_the_data_does_not_count(build: object) -> None:
    from tests.conftest import random_rows, write_inter

    path = write_inter(random_rows())
    Path("data/tiny/tiny.yaml").write_text("epochs: 77\n")
    assert build(dataset="tiny", data_path=path, epochs=2).config["epochs"] == 2  # type: ignore[operator]
    from recbole.config import Config

    assert Config(model="MultVAE", dataset="tiny", config_dict={"data_path": path})["epochs"] != 77
    Path("data/tiny/tiny.yaml").write_text(f"{MARK}\nepochs: 77\n")
    assert Config(model="MultVAE", dataset="tiny", config_dict={"data_path": path})["epochs"] == 77
    assert Config(model="MultVAE", dataset="tiny", config_dict={"data_path": path, "epochs": 5})["epochs"] == 5


@pytest.mark.parametrize("name", [*SOURCES, "lightgcn"])
def test_the_settings_of_each_data_set_are_allowed(name: str) -> None:
    import recbole.evaluator
    import yaml

    from recbole_vae.options.recbole import properties_folder

    text = (properties_folder() / f"dataset/{name}.yaml").read_text(encoding="utf-8")
    values = {"eval_args": {}, **yaml.safe_load(text)}
    check_eval_args(values, False, lambda key: "")
    kinds = recbole.evaluator.register.metric_types
    assert (
        check_metrics(values, kinds, (), {"truncatedrecall", "recall", "ndcg"}, lambda key: "")
        == values["valid_metric"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "prepare (command line): the following arguments are required: NAME; usage: recbole-vae prepare NAME [FILE]",
        ),
        (
            ["shop", "--user=a"],
            "FILE (command line) is missing: the table to read, as in recbole-vae prepare shop orders.csv",
        ),
        (["ml-2m", "x.zip"], "prepare: there is no published data set 'ml-2m'; did you mean ml-20m?"),
        (["ml-1m", "x.zip", "--ou=x"], "--ou (command line): prepare has no such option; did you mean --out?"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
