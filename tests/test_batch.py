"""`cxr predict` over many files: a row each, in order, resumed, in every format, whatever the files
are."""

import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hostile import COUNT, EITHER, write_hostile
from PIL import Image
from tiny_model import FINDINGS, SIZE, write_tiny_model

import lib.inference.batch
from lib.config import REPO_ROOT
from lib.exceptions import CxrError
from lib.inference.batch import predict_files
from lib.inference.command import predict_command
from lib.inference.listing import Found, find_files, path_text
from lib.inference.predictor import Predictor
from lib.inference.table import Journal, columns, escaped, line, read_answers

ENDINGS = [".csv", ".parquet"]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def films(tmp_path) -> Path:
    """Ten plain films, grey 0 to 225, in two folders."""
    for i in range(10):
        path = tmp_path / "films" / "ba"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (SIZE, SIZE), 25 * i).save(path)
    return tmp_path / "films"


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the films that are read from here on."""
    names: list[str] = []
    read_radiograph = lib.inference.batch.read_radiograph

    def noting(path, *args, **kwargs):
        names.append(Path(path).name)
        return read_radiograph(path, *args, **kwargs)

    monkeypatch.setattr(lib.inference.batch, "read_radiograph", noting)
    return names


def answers(model: Path, *named: Path | str, out: Path, **options) -> list[dict]:
    predict_files(model, [str(name) for name in named], out=out, threads=1, **options)
    return list(read_answers(out))


def names(rows: list[dict]) -> list[str]:
    return [Path(row["path"]).name for row in rows]


# ---- rows


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_what_the_predictor_says(model, films, tmp_path, ending):
    rows = answers(model, films, out=tmp_path / f"out{ending}")
    greys = [int(Path(row["path"]).stem) * 25 for row in rows]
    images = np.stack([np.full((SIZE, SIZE), grey, np.uint8) for grey in greys])
    predictor = Predictor(model)
    probs = predictor.predict(images).probs
    np.testing.assert_allclose(
        [[row[f"prob_{f}"] for f in FINDINGS] for row in rows], probs, atol=1e-6
    )
    flagged = ["|".join(np.array(FINDINGS)[row]) for row in predictor.flagged(probs)]
    assert [row["flagged"] for row in rows] == flagged and {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_in_the_order_of_the_files_however_many_threads(model, films, tmp_path, threads):
    predict_files(model, [str(films)], out=tmp_path / "out.csv", threads=threads)
    rows = list(read_answers(tmp_path / "out.csv"))
    assert names(rows) == [
        f"{i}.png" for i in (1, 3, 5, 7, 9, 0, 2, 4, 6, 8)
    ]  # folder a comes before b


def test_every_format_holds_the_same_rows(model, films, tmp_path):
    (films / "odd.png").write_text("no film")
    one, two = (answers(model, films, out=tmp_path / f"out{ending}") for ending in ENDINGS)
    assert one == two and len(one) == 11


def test_the_columns_are_reported(model, films, tmp_path):
    answers(model, films, out=tmp_path / "out.csv")
    answers(model, films, out=tmp_path / "out.parquet")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert next(csv.reader(file)) == columns(FINDINGS)
    assert pyarrow.parquet.read_schema(tmp_path / "out.parquet").names == columns(FINDINGS)


def test_a_bad_file_is_a_row_with_its_reason_and_not_the_end(model, films, tmp_path):
    (films / "a" / "0bad.png").write_text("no film")
    rows = answers(model, films, films / "none.png", out=tmp_path / "out.csv")
    refused = {Path(row["path"]).name: row["reason"] for row in rows if row["status"] == "refused"}
    assert (
        refused["0bad.png"].startswith("the file is not an image")
        and "No such file" in refused["none.png"]
    )
    assert len(rows) == 12 and all(
        row["prob_Effusion"] is None for row in rows if row["status"] == "refused"
    )


def test_a_bug_while_reading_ends_the_batch_with_its_error(model, films, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("a bug\n")

    monkeypatch.setattr(lib.inference.batch, "read_radiograph", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        answers(model, films, out=tmp_path / "out.csv")


def test_the_exit_code_is_1_when_every_file_was_refused(model, tmp_path):
    (tmp_path / "odd.png").write_text("no film")
    assert predict_command(model, [str(tmp_path / "odd.png")], tmp_path / "out.csv") == 1


def test_the_leaderboards_file_holds_findings_or_no_finding_or_nothing(model, films, tmp_path):
    (films / "odd.png").write_text("no film")
    predict_files(model, [str(films)], out=tmp_path / "out.csv", leaderboard=True)
    with (tmp_path / "out.csv").open(newline="") as file:
        disease = {row["imageID"]: row["disease"] for row in csv.DictReader(file)}
    assert disease["0.png"] == "No Finding" and disease["odd.png"] == ""
    assert disease["9.png"] == "Atelectasis|Cardiomegaly"


def test_warnings_stand_in_the_row(model, tmp_path):
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "red.png")
    (row,) = answers(model, tmp_path / "red.png", out=tmp_path / "out.csv")
    assert row["warnings"] == "in colour, where films are grey; almost blank"


def test_a_film_unlike_the_others_is_reported(tmp_path, films):
    pair, single = "AACAPwAAgD8=", "AACAPw=="  # 1, 1 and 1, as float32
    shapes = {"mean": ([2], pair), "projection": ([2, 1], pair), "scale": ([1], single)}
    statistics = {
        k: {"dtype": "float32", "shape": shape, "base64": text}
        for k, (shape, text) in shapes.items()
    }
    told = write_tiny_model(
        tmp_path / "told.onnx", familiarity=statistics | {"rest": 1.0, "threshold": 0.9}
    )
    rows = answers(told, films / "a", out=tmp_path / "out.csv")
    score = Predictor(told).predict(np.full((1, SIZE, SIZE), 25, np.uint8)).unlikeness[0]
    assert rows[0]["unlikeness"] == round(score, 4)
    assert [row["unfamiliar"] for row in rows] == [row["unlikeness"] > 0.9 for row in rows]
    assert {row["unfamiliar"] for row in rows} == {True, False}


def test_without_out_a_table_is_printed(model, films, capsys):
    (films / "odd\x1b[2J.png").write_text("no film")
    assert predict_command(model, [str(films / "a" / "9.png"), str(films / "odd\x1b[2J.png")]) == 0
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first.split("  ")[-1] == "Atelectasis 0.96, Cardiomegaly 0.82; almost blank"
    assert "odd\\x1b[2J.png" in second and "refused: the file is not an image" in second
    assert captured.err == "2 files, 1 answered, 1 refused\n"


def test_a_line_names_the_likeliest_where_nothing_is_flagged():
    row = {
        "path": "f",
        "status": "ok",
        "flagged": "",
        "unfamiliar": True,
        "unlikeness": 12.34,
        "warnings": "small",
    }
    told = line(row | {"prob_Mass": 0.1, "prob_Nodule": 0.25})
    assert (
        told.split("  ")[-1].strip()
        == "none flagged (highest: Nodule 0.25); unlike the training films (12.3); small"
    )


def test_the_command_reads_a_list_from_its_input(model, films, tmp_path, monkeypatch):
    listing = "\n".join(str(films / "a" / f"{i}.png") for i in (7, 3))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listing.encode())))
    assert predict_command(model, ["-"], tmp_path / "out.csv") == 0
    assert names(list(read_answers(tmp_path / "out.csv"))) == ["7.png", "3.png"]


def test_a_model_that_fails_ends_the_batch_with_its_error(model, films, tmp_path, monkeypatch):
    def fail(self, images):
        raise ValueError("the model is broken")

    monkeypatch.setattr(Predictor, "predict", fail)
    with pytest.raises(ValueError, match="the model is broken"):
        answers(model, films, out=tmp_path / "out.csv")


# ---- what is named


def test_folders_patterns_lists_and_files_are_found(films, tmp_path):
    listing = io.BytesIO(os.fsencode(films / "a") + b"\n" + os.fsencode(films / "b" / "0.png"))
    found = [
        Path(path).name
        for path, _ in find_files(["-", str(films / "*" / "[48].png"), "x*"], listing)
    ]
    assert found == ["1.png", "3.png", "5.png", "7.png", "9.png", "0.png", "4.png", "8.png", "x*"]


def test_a_list_may_be_divided_by_zero_bytes(tmp_path):
    paths = [tmp_path / "a\nb", tmp_path / "c"]
    listing = io.BytesIO(b"\0".join(os.fsencode(path) for path in paths) + b"\0")
    assert [path for path, _ in find_files(["-"], listing)] == [str(path) for path in paths]


def test_a_long_list_is_read_as_it_comes(tmp_path):
    paths = [f"/missing/{number:06d}" for number in range(20000)]
    assert [path for path, _ in find_files(["-"], io.BytesIO("\n".join(paths).encode()))] == paths


def test_a_file_whose_name_is_a_pattern_is_itself(tmp_path):
    (tmp_path / "[1].png").touch()
    (tmp_path / "1.png").touch()
    assert list(find_files([str(tmp_path / "[1].png")])) == [Found(str(tmp_path / "[1].png"))]


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "up").symlink_to(tmp_path)
    assert [(Path(path).name, bool(refused)) for path, refused in find_files([str(tmp_path)])] == [
        ("up", True)
    ]


def test_folders_deeper_than_the_stack_are_walked(tmp_path):
    deepest = tmp_path
    for _ in range(1100):
        deepest = deepest / "d"
        deepest.mkdir()
    (deepest / "film").touch()
    try:
        assert [path for path, _ in find_files([str(tmp_path)])] == [str(deepest / "film")]
    finally:  # what cleans up after tests cannot go as deep
        (deepest / "film").unlink()
        while deepest != tmp_path:
            deepest.rmdir()
            deepest = deepest.parent


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser lists every folder")
def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    ((_, refused),) = find_files([str(tmp_path)])
    assert refused == "is a folder that cannot be listed: Permission denied"


@pytest.mark.parametrize(
    ("name", "text"),
    [("é 胸.png", "é 胸.png"), ("a\nb\x7f", r"a\x0ab\x7f"), ("\udcff.png", r"\xff.png")],
)
def test_a_path_is_one_line_of_text(name, text):
    assert path_text(name) == text


def test_what_moves_a_cursor_is_escaped():
    assert escaped("a\u202eb\x1b[2J\u2028é") == r"a\u202eb\x1b[2J\u2028é"


# ---- again


@pytest.mark.parametrize("ending", ENDINGS)
def test_again_nothing_is_answered_twice(model, films, tmp_path, read, ending):
    first = answers(model, films, out=tmp_path / f"out{ending}")
    read.clear()
    assert answers(model, films, out=tmp_path / f"out{ending}") == first and read == []


def test_again_what_is_new_or_changed_is_answered_in_its_place(model, films, tmp_path, read):
    answers(model, films, out=tmp_path / "out.csv")
    read.clear()
    Image.new("L", (SIZE, SIZE), 255).save(films / "a" / "5.png")
    os.utime(films / "a" / "7.png", ns=(0, 1))
    Image.new("L", (SIZE, SIZE), 3).save(films / "a" / "6.png")
    (films / "b" / "0.png").unlink()
    rows = answers(model, films, out=tmp_path / "out.csv")
    assert sorted(read) == ["5.png", "6.png", "7.png"]
    assert names(rows) == [f"{i}.png" for i in (1, 3, 5, 6, 7, 9, 2, 4, 6, 8)]
    assert rows[2]["prob_Atelectasis"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


def test_a_refused_file_is_tried_again(model, films, tmp_path, read):
    (films / "odd.png").write_text("no film")
    answers(model, films, out=tmp_path / "out.csv")
    read.clear()
    answers(model, films, out=tmp_path / "out.csv")
    assert read == ["odd.png"]


def test_another_model_answers_everything_anew(model, films, tmp_path, read):
    answers(model, films, out=tmp_path / "out.csv")
    read.clear()
    answers(
        write_tiny_model(tmp_path / "other.onnx", thresholds=[0.1, 0.1, 0.1]),
        films,
        out=tmp_path / "out.csv",
    )
    assert len(read) == 10


def test_what_is_named_twice_has_one_row(model, films, tmp_path):
    named = [str(films), str(films / "a" / "1.png"), str(films / "b" / ".." / "a" / "1.png")]
    assert (
        predict_files(model, named, out=tmp_path / "out.csv").text()
        == "10 files, 10 answered, 0 refused"
    )
    assert len(list(read_answers(tmp_path / "out.csv"))) == 10


def test_the_output_among_the_films_is_no_film(model, films):
    answers(model, films, out=films / "out.csv")
    assert len(answers(model, films, out=films / "out.csv")) == 10


def test_nothing_is_left_beside_the_output(model, films, tmp_path):
    (tmp_path / "out").mkdir()
    answers(model, films, out=tmp_path / "out" / "out.csv")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "out.csv"]


def test_ctrl_c_keeps_what_was_answered_and_no_half_file(
    model, films, tmp_path, read, monkeypatch, capsys
):
    predict, calls = Predictor.predict, []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_command(model, [str(films)], tmp_path / "out.csv", threads=1)
    assert (
        not (tmp_path / "out.csv").exists()
        and "repeat the same command to continue" in capsys.readouterr().err
    )
    read.clear()
    rows = answers(model, films, out=tmp_path / "out.csv")
    assert len(read) == 5 and rows == answers(model, films, out=tmp_path / "fresh.csv")


def test_a_killed_process_leaves_what_the_next_call_goes_on_from(model, films, tmp_path, read):
    """It is killed when it wants to answer the sixth film; each row is in the file as it comes."""
    code = """if True:
        import os, sys, time, lib.inference.batch, lib.inference.table
        from pathlib import Path
        predict, calls, saved = lib.inference.batch.Predictor.predict, [], []
        add = lib.inference.table.Journal.add

        def killed(self, images):
            calls.append(1)
            while len(calls) == 6:
                time.sleep(0.01)
                if len(saved) == 5:
                    os.kill(os.getpid(), 9)
            return predict(self, images)

        lib.inference.batch.Predictor.predict = killed
        lib.inference.table.Journal.add = lambda self, row: (add(self, row), saved.append(1))
        lib.inference.batch.predict_files(Path(sys.argv[1]), [sys.argv[2]], out=Path(sys.argv[3]), threads=1)
    """
    words = [sys.executable, "-c", code, str(model), str(films), str(tmp_path / "out.csv")]
    assert subprocess.run(words, cwd=REPO_ROOT).returncode == -signal.SIGKILL
    assert not (tmp_path / "out.csv").exists()
    rows = answers(model, films, out=tmp_path / "out.csv")
    assert names(rows) == [f"{i}.png" for i in (1, 3, 5, 7, 9, 0, 2, 4, 6, 8)]
    assert read == [f"{i}.png" for i in (0, 2, 4, 6, 8)]


def test_two_at_once_on_one_output_are_reported(model, films, tmp_path):
    held = Journal(tmp_path / ".out.csv.partial", columns(FINDINGS))
    with pytest.raises(CxrError, match="is in use by another process"):
        answers(model, films, out=tmp_path / "out.csv")
    held.close(done=True)


def test_a_broken_journal_is_reported(model, films, tmp_path):
    (tmp_path / ".out.csv.partial").write_bytes(b"no answers at all\n" * 100)
    with pytest.raises(CxrError, match=r"\.out\.csv\.partial is broken at line 1; delete it"):
        answers(model, films, out=tmp_path / "out.csv")


def test_a_last_line_that_was_cut_short_is_answered_anew(model, films, tmp_path, read):
    answers(model, films, out=tmp_path / "whole.csv")
    lines = (tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    (tmp_path / ".out.csv.partial").write_text("".join(lines[:6]) + lines[6][:-9])
    read.clear()
    answers(model, films, out=tmp_path / "out.csv")
    assert len(read) == 5
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_after_a_kill_newer_answers_beat_those_of_the_older_output(model, films, tmp_path, read):
    answers(model, films, out=tmp_path / "out.csv")
    Image.new("L", (SIZE, SIZE), 200).save(films / "a" / "1.png")
    answers(model, films, out=tmp_path / "newer.csv")
    (tmp_path / "newer.csv").rename(tmp_path / ".out.csv.partial")
    wanted = (tmp_path / ".out.csv.partial").read_text()
    read.clear()
    answers(model, films, out=tmp_path / "out.csv")
    assert read == [] and (tmp_path / "out.csv").read_text() == wanted


def test_a_full_disk_is_one_sentence_and_loses_no_row(model, films, tmp_path):
    """The file may not grow beyond what five rows take."""
    answers(model, films, out=tmp_path / "whole.csv")
    limit = len("".join((tmp_path / "whole.csv").read_text().splitlines(keepends=True)[:6])) + 20
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
    )
    code += "sys.argv[1:] = sys.argv[2:]; from lib.cli import app; app()"
    words = [
        "predict",
        str(model),
        str(films),
        "--out",
        str(tmp_path / "out.csv"),
        "--threads",
        "1",
    ]
    found = subprocess.run(
        [sys.executable, "-c", code, str(limit), *words], cwd=REPO_ROOT, capture_output=True
    )
    assert found.returncode == 1 and b"Traceback" not in found.stderr
    assert b"cannot be written (File too large); finished predictions are kept" in found.stderr
    assert (tmp_path / ".out.csv.partial").read_text().count("\n") == 6
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(model, films):
    with pytest.raises(CxrError, match=r"^/proc cannot be written to"):
        predict_files(model, [str(films)], out=Path("/proc/out.csv"))


# ---- outputs that cannot be


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.txt", {}, r"ends with \.csv, \.parquet"),
        ("out.parquet", {"leaderboard": True}, r"ends with \.csv$"),
        ("none/out.csv", {}, "is not a folder; create it"),
        ("theirs.csv", {}, "does not hold predictions"),
        ("theirs.parquet", {}, "exists but cannot be read"),
    ],
)
def test_an_output_that_cannot_be_is_reported_before_anything_is_read(
    model, films, tmp_path, read, name, options, message
):
    for ending in ENDINGS:
        (tmp_path / f"theirs{ending}").write_text("their,own\n1,2\n")
    with pytest.raises(CxrError, match=message):
        predict_files(model, [str(films)], out=tmp_path / name, **options)
    assert read == [] and (tmp_path / "theirs.csv").read_text() == "their,own\n1,2\n"


def test_an_output_with_a_broken_row_is_reported(model, films, tmp_path):
    answers(model, films, out=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open("a") as file:
        file.write("a,ok\n")
    with pytest.raises(CxrError, match=r"out\.csv is broken .* delete it"):
        answers(model, films, out=tmp_path / "out.csv")


# ---- many, and hostile


def test_no_more_than_a_few_films_are_held(model, films, tmp_path, monkeypatch):
    """With two threads, the list of files runs a few films ahead of the rows, and no further."""
    far, rows = [], []
    monkeypatch.setattr(lib.inference.batch, "line", lambda row: rows.append(row) or "")

    def many(named, listing=None):
        for number in range(200):
            far.append(number - len(rows))
            yield Found(str(films / f"{number}.png"))

    monkeypatch.setattr(lib.inference.batch, "find_files", many)
    predict_files(model, ["-"], threads=2)
    assert len(rows) == 200 and max(far) == 4


def test_hostile_files_each_have_a_row_and_the_exit_code_is_0(model, tmp_path):
    """With 3 GiB of address space, so that no file can ask for more."""
    fates = write_hostile(tmp_path / "hostile")
    assert len(fates) >= COUNT
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); "
    code += "from pathlib import Path; from lib.inference.command import predict_command as p; "
    code += "sys.exit(p(Path(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), threads=2))"
    words = [
        sys.executable,
        "-c",
        code,
        str(model),
        str(tmp_path / "hostile"),
        str(tmp_path / "out.csv"),
    ]
    found = subprocess.run(words, cwd=REPO_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert found.returncode == 0
    status = {row["path"]: row["status"] for row in read_answers(tmp_path / "out.csv")}
    wanted = {path_text(os.fsdecode(path)): fate for path, fate in fates.items()}
    assert status.keys() == wanted.keys()
    assert {path: status[path] for path in wanted if wanted[path] != EITHER} == {
        path: fate for path, fate in wanted.items() if fate != EITHER
    }


def test_all_real_files_have_a_row(model, real_data, tmp_path):
    folders = [str(real_data / name) for name in ("originals", "dicom", "kaggle_sample")]
    rows = answers(model, *folders, out=tmp_path / "out.csv")
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    refused = {Path(row["path"]).name for row in rows if row["status"] == "refused"}
    assert len(rows) == len(files) == 698
    assert refused == {"udacity_test4.dcm", "udacity_test5.dcm", "sample_labels.csv"}


@pytest.mark.parametrize("cell", ["", "x", "1.2.3"])
def test_a_journals_row_that_holds_no_number_is_reported(model, films, tmp_path, cell):
    answers(model, films, out=tmp_path / "out.csv")
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    lines[3][lines[0].index("prob_Effusion")] = cell
    (tmp_path / ".out.csv.partial").write_text("\n".join(map(",".join, lines)) + "\n")
    with pytest.raises(CxrError, match=r"\.out\.csv\.partial is broken at line 4"):
        answers(model, films, out=tmp_path / "out.csv")


@pytest.mark.parametrize("damage", [b"a\rb,ok\n", b'"' + b"x" * 200_000 + b"\n"])
def test_a_journal_that_no_csv_reader_reads_is_reported(model, films, tmp_path, damage):
    answers(model, films, out=tmp_path / "out.csv")
    head = (tmp_path / "out.csv").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / ".out.csv.partial").write_bytes(head + damage)
    with pytest.raises(CxrError, match=r"\.out\.csv\.partial is broken at line 2"):
        answers(model, films, out=tmp_path / "out.csv")


@pytest.mark.parametrize("cell", ["", "x"])
def test_an_earlier_row_without_its_probability_is_reported(model, films, tmp_path, cell):
    answers(model, films, out=tmp_path / "out.csv")
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    lines[3][lines[0].index("prob_Effusion")] = cell
    (tmp_path / "out.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    with pytest.raises(CxrError, match=r"out\.csv is broken"):
        answers(model, films, out=tmp_path / "out.csv")
