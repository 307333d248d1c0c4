"""`cxr predict --shard` and `--merge`: the shards together are the table of one process."""

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_model import FINDINGS, SIZE, write_tiny_model

import lib.inference.batch
import lib.inference.session
from lib.config import REPO_ROOT
from lib.exceptions import CxrError
from lib.inference import Predictor, Shard, merge_shards, predict_command, predict_files
from lib.inference.shards import parse_shard, shard_number, shard_table
from lib.inference.table import Journal, columns, read_answers

ENDINGS = [".csv", ".parquet"]
OF = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def films(tmp_path, monkeypatch) -> Path:
    """Twelve films in two folders, and a file that is none.

    The path is relative, so that each film is in the same shard wherever tests are run.
    """
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        path = Path("films") / "ba"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (SIZE, SIZE), 20 * i).save(path)
    Path("films/a/odd.png").write_text("no film")
    return Path("films")


def make(model: Path, films: Path, out: Path, *numbers: int) -> None:
    """Predicts for the shards of these numbers, or for all."""
    for number in numbers or range(1, OF + 1):
        predict_files(model, [str(films)], out=out, threads=1, shard=Shard(number, OF))


def merge(model: Path, films: Path, out: Path, **options) -> bytes:
    merge_shards(model, [str(films)], out=out, **options)
    return out.read_bytes()


def whole(model: Path, films: Path, tmp_path: Path, ending: str = ".csv", **options) -> bytes:
    path = tmp_path / f"whole{ending}"
    predict_files(model, [str(films)], out=path, threads=1, **options)
    return path.read_bytes()


def a_film_of(films: Path, number: int) -> Path:
    """A film that belongs to the shard."""
    found = [path for path in sorted(films.rglob("[0-9]*.png")) if in_shard(path, number)]
    return found[len(found) // 2]


def in_shard(path: Path, number: int) -> bool:
    return shard_number(str(path), OF) == number


# ---- together they are the whole


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_merged_table_has_the_bytes_of_an_undivided_one(model, films, tmp_path, ending):
    make(model, films, tmp_path / f"out{ending}")
    merged = merge(model, films, tmp_path / f"out{ending}")
    assert merged == whole(model, films, tmp_path, ending)


def test_the_merged_leaderboard_too(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    merged = merge(model, films, tmp_path / "out.csv", leaderboard=True)
    assert merged == whole(model, films, tmp_path, leaderboard=True)


def test_every_film_is_in_one_shard(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    tables = [shard_table(tmp_path / "out.csv", Shard(number, OF)) for number in (1, 2, 3)]
    paths = [[row["path"] for row in read_answers(table)] for table in tables]
    assert sorted(itertools.chain(*paths)) == sorted(str(path) for path in films.rglob("*.png"))
    assert all(paths)


def test_a_shard_without_films_is_an_empty_table(model, films, tmp_path):
    only = [path for path in films.rglob("*.png") if not in_shard(path, 2)]
    named = [str(path) for path in only]
    for ending in ENDINGS:
        out = tmp_path / f"out{ending}"
        for number in (1, 2, 3):
            predict_files(model, named, out=out, threads=1, shard=Shard(number, OF))
        assert merge_shards(model, named, out=out).text().startswith(f"{len(only)} files")


def test_shards_among_the_films_are_no_films(model, films):
    make(model, films, films / "out.csv")
    merge(model, films, films / "out.csv")
    merge(model, films, films / "out.csv")
    assert len(list(read_answers(films / "out.csv"))) == 13


def test_a_list_from_stdin_is_divided_and_merged(model, films, tmp_path, monkeypatch, capsys):
    text = "\n".join(str(path) for path in sorted(films.rglob("*.png"), reverse=True)).encode()

    def command(**options) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        return predict_command(model, ["-"], tmp_path / "out.csv", threads=1, **options)

    assert [command(shard=f"{number}/2") for number in (1, 2)] == [0, 0]
    capsys.readouterr()
    assert command(merge=True) == 0
    counts = f"13 files, 12 answered, 1 refused; {tmp_path / 'out.csv'}\n"
    assert capsys.readouterr().err == counts
    rows = [row["path"] for row in read_answers(tmp_path / "out.csv")]
    assert rows == text.decode().split("\n")


def test_a_shard_is_what_the_hash_of_the_path_says():
    """The tables of older versions stay mergeable: a film never changes its shard."""
    assert [shard_number(f"films/{i}.png", 5) for i in range(8)] == [4, 3, 4, 2, 5, 3, 5, 3]


def test_shards_are_of_about_the_same_size():
    counts = [0] * 8
    for i in range(8000):
        counts[shard_number(f"images/{i // 20:08d}_{i % 20:03d}.png", 8) - 1] += 1
    assert min(counts) > 880 and max(counts) < 1120


# ---- again


def test_a_killed_shard_goes_on_where_it_was(model, films, tmp_path):
    code = """if True:
        import os, sys, lib.inference.table
        from pathlib import Path
        from lib.inference import Shard, predict_files
        add, added = lib.inference.table.Journal.add, []

        def killed(self, row):
            add(self, row)
            added.append(row["status"])
            if added.count("ok") == 2:
                os.kill(os.getpid(), 9)

        lib.inference.table.Journal.add = killed
        model, films, out = sys.argv[1:]
        predict_files(Path(model), [films], out=Path(out), threads=1, shard=Shard(2, 3))
    """
    words = [sys.executable, "-c", code, str(model), str(films), str(tmp_path / "out.csv")]
    environment = os.environ | {"PYTHONPATH": str(REPO_ROOT)}
    assert subprocess.run(words, cwd=tmp_path, env=environment).returncode == -9
    make(model, films, tmp_path / "out.csv", 1, 3)
    with pytest.raises(CxrError, match=r"out\.shard-2-of-3\.csv is not complete: --shard 2/3"):
        merge(model, films, tmp_path / "out.csv")

    counts = predict_files(
        model, [str(films)], out=tmp_path / "out.csv", threads=1, shard=Shard(2, OF)
    )
    assert counts.reused == 2
    assert merge(model, films, tmp_path / "out.csv") == whole(model, films, tmp_path)


def test_a_film_added_between_belongs_to_one_shard_and_moves_no_other(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    new = next(films / "a" / f"00{i}.png" for i in range(99) if in_shard(films / f"a/00{i}.png", 2))
    Image.new("L", (SIZE, SIZE), 7).save(new)
    with pytest.raises(CxrError, match=r"out\.shard-2-of-3\.csv .*; run this shard again"):
        merge(model, films, tmp_path / "out.csv")
    counts = predict_files(
        model, [str(films)], out=tmp_path / "out.csv", threads=1, shard=Shard(2, OF)
    )
    assert counts.answered == 1 and counts.reused > 0
    assert merge(model, films, tmp_path / "out.csv") == whole(model, films, tmp_path)


def test_two_processes_on_one_shard_are_refused(model, films, tmp_path):
    held = Journal(tmp_path / ".out.shard-1-of-3.csv.partial", columns(FINDINGS))
    with pytest.raises(CxrError, match=r"shard-1-of-3\.csv\.partial is in use by another process"):
        make(model, films, tmp_path / "out.csv", 1)
    make(model, films, tmp_path / "out.csv", 2)
    held.close(done=True)


# ---- what is not merged


def test_missing_shards_are_named(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv", 2)
    with pytest.raises(CxrError) as refused:
        merge(model, films, tmp_path / "out.csv")
    assert str(refused.value).splitlines() == [
        f"{tmp_path}/out.shard-1-of-3.csv is missing; make it with --shard 1/3",
        f"{tmp_path}/out.shard-3-of-3.csv is missing; make it with --shard 3/3",
    ]
    assert not (tmp_path / "out.csv").exists()


def test_no_shard_at_all_is_reported(model, films, tmp_path):
    with pytest.raises(CxrError, match=r"has no shards of out\.csv"):
        merge(model, films, tmp_path / "out.csv")


def test_shards_of_two_divisions_are_reported(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    predict_files(model, [str(films)], out=tmp_path / "out.csv", threads=1, shard=Shard(1, 2))
    with pytest.raises(CxrError, match="were divided in 2 and 3"):
        merge(model, films, tmp_path / "out.csv")


def test_a_shard_of_another_model_is_named(model, films, tmp_path):
    other = write_tiny_model(tmp_path / "other.onnx", thresholds=[0.1, 0.1, 0.1])
    make(model, films, tmp_path / "out.csv", 1, 2)
    make(other, films, tmp_path / "out.csv", 3)
    with pytest.raises(CxrError, match=r"out\.shard-3-of-3\.csv is of another model"):
        merge(model, films, tmp_path / "out.csv")


def test_a_shard_of_other_findings_is_named(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    (tmp_path / "out.shard-2-of-3.csv").write_text("their,own\n1,2\n")
    with pytest.raises(CxrError, match=r"out\.shard-2-of-3\.csv exists but does not hold"):
        merge(model, films, tmp_path / "out.csv")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_shard_of_another_list_of_films_is_named(model, films, tmp_path, ending):
    make(model, films, tmp_path / f"out{ending}", 1, 3)
    make(model, films / "b", tmp_path / f"out{ending}", 2)
    with pytest.raises(CxrError, match=r"out\.shard-2-of-3\.\w+ .* run this shard again"):
        merge(model, films, tmp_path / f"out{ending}")


def test_a_film_that_is_gone_since_then_is_named(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    path = max(path for path in films.rglob("*.png") if in_shard(path, 1))
    path.unlink()
    with pytest.raises(CxrError, match=rf"shard-1-of-3\.csv has a row of {path}, which is not"):
        merge(model, films, tmp_path / "out.csv")


def test_a_film_that_changed_since_then_is_named(model, films, tmp_path):
    make(model, films, tmp_path / "out.csv")
    path = a_film_of(films, 3)
    Image.new("RGB", (SIZE, SIZE)).save(path)
    with pytest.raises(CxrError, match=rf"shard-3-of-3\.csv has a row of {path} from before"):
        merge(model, films, tmp_path / "out.csv")


def lines_of_shard(tmp_path: Path, change) -> None:
    path = tmp_path / "out.shard-2-of-3.csv"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "ends before the row of"),
        (lambda lines: lines[:2] + lines[1:], "has a row of .* where the files have"),
        (lambda lines: [*lines, lines[-1]], "has a row of .* which is not among the files"),
        (lambda lines: [*lines[:-1], lines[-1][:-60]], "is broken"),
        (lambda lines: [*lines[:-1], lines[-1].replace("0.", "x")], "is broken"),
    ],
)
def test_a_damaged_shard_is_named(model, films, tmp_path, change, message):
    """A row is missing, doubled, too many, cut short, or holds something else."""
    make(model, films, tmp_path / "out.csv")
    lines_of_shard(tmp_path, change)
    with pytest.raises(CxrError, match=rf"out\.shard-2-of-3\.csv {message}"):
        merge(model, films, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


# ---- options that do not go together


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/10000"])
def test_a_shard_that_cannot_be_is_a_sentence(text):
    with pytest.raises(CxrError, match=f"--shard {text}: a shard is I/N"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "1/2"}, "give --out FILE"),
        ({"merge": True}, "give --out FILE"),
        ({"merge": True, "shard": "1/2", "out": Path("out.csv")}, "and no --shard"),
        ({"leaderboard": True, "shard": "1/2", "out": Path("out.csv")}, "--leaderboard to --merge"),
    ],
)
def test_options_that_do_not_go_together_are_a_sentence(model, films, options, message):
    with pytest.raises(CxrError, match=message):
        predict_command(model, [str(films)], **options)


# ---- devices


@pytest.fixture
def cuda(monkeypatch) -> dict:
    """An onnxruntime that says that it has CUDA; `cuda["works"]` is whether a device is there.

    The sessions that it opens compute on the CPU.
    """
    state: dict = {"works": True, "asked": []}
    session = lib.inference.session.onnxruntime.InferenceSession

    def opened(path, options, providers):
        state["asked"].append(providers[0] if isinstance(providers[0], str) else providers[0][0])
        made = session(path, options, providers=["CPUExecutionProvider"])
        if state["works"]:
            monkeypatch.setattr(made, "get_providers", lambda: [state["asked"][-1]])
        return made

    runtime = lib.inference.session.onnxruntime
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: both)
    monkeypatch.setattr(runtime, "InferenceSession", opened)
    return state


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_fp32_goes_to_cuda_where_it_is(model, cuda, device):
    assert Predictor(model, device=device).device == "cuda"
    assert cuda["asked"][-1] == "CUDAExecutionProvider"


def test_the_cpu_is_used_where_it_is_asked_for(model, cuda):
    assert Predictor(model, device="cpu").device == "cpu"
    assert cuda["asked"] == ["CPUExecutionProvider"]


def test_int8_stays_on_the_cpu(tmp_path, cuda):
    path = write_tiny_model(tmp_path / "int8.onnx", precision="int8")
    assert Predictor(path, device="auto").device == "cpu"
    with pytest.raises(CxrError, match=r"int8\.onnx is int8, which is computed on the CPU alone"):
        Predictor(path, device="cuda")


def test_cuda_without_a_device_is_a_sentence_or_the_cpu(model, cuda, capsys):
    cuda["works"] = False
    with pytest.raises(CxrError, match="found no CUDA device that it can use"):
        Predictor(model, device="cuda")
    assert Predictor(model, device="auto").device == "cpu"


def test_cuda_that_is_not_installed_is_a_sentence(model, monkeypatch):
    only = ["CPUExecutionProvider"]
    monkeypatch.setattr(lib.inference.session.onnxruntime, "get_available_providers", lambda: only)
    assert Predictor(model, device="auto").device == "cpu"
    with pytest.raises(CxrError, match="this onnxruntime has no CUDA: install onnxruntime-gpu"):
        Predictor(model, device="cuda")


def test_the_summary_names_the_device_where_there_is_a_choice(model, films, cuda, capsys):
    predict_command(model, [str(films / "a" / "1.png")], device="auto")
    assert capsys.readouterr().err.endswith("1 files, 1 answered, 0 refused, on cuda\n")
