"""The command `cxr predict`.

In: its options. Out: a table or lines of predictions, a summary on stderr, and an exit code.
"""

import sys
import warnings
from pathlib import Path

from lib.exceptions import CxrError
from lib.inference.batch import predict_files
from lib.inference.merge import merge_shards
from lib.inference.session import cuda_installed
from lib.inference.shards import parse_shard
from lib.inference.table import Counts


def predict_command(
    model: Path,
    named: list[str],
    out: Path | None = None,
    *,
    threads: int | None = None,
    leaderboard: bool = False,
    shard: str | None = None,
    merge: bool = False,
    device: str = "cpu",
) -> int:
    """Call `predict_files` or `merge_shards`, print a summary, and return the exit code.

    `shard` is a text like 2/4. The exit code is 1 when every file was refused, else 0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # libraries warn about broken files; the rows already say what matters
        if merge:
            counts = _merge(model, named, out, leaderboard, shard)
        else:
            counts = _predict(model, named, out, threads, leaderboard, shard, device)
    place = f", on {counts.device}" if cuda_installed() and not merge else ""
    print(counts.text() + place + (f"; {out}" if out else ""), file=sys.stderr)
    return 1 if counts.refused and not counts.answered + counts.reused else 0


def _merge(
    model: Path, named: list[str], out: Path | None, leaderboard: bool, shard: str | None
) -> Counts:
    if out is None or shard is not None:
        raise CxrError("--merge reads the tables of all shards: give --out FILE, and no --shard")
    return merge_shards(model, named, out=out, leaderboard=leaderboard, listing=_listing(named))


def _predict(
    model: Path,
    named: list[str],
    out: Path | None,
    threads: int | None,
    leaderboard: bool,
    shard: str | None,
    device: str,
) -> Counts:
    try:
        return predict_files(
            model,
            named,
            out=out,
            threads=threads,
            leaderboard=leaderboard,
            listing=_listing(named),
            shard=None if shard is None else parse_shard(shard),
            device=device,
        )
    except KeyboardInterrupt:
        if out is not None:
            print(
                f"interrupted; finished predictions are kept, repeat the same command to continue ({out})",
                file=sys.stderr,
            )
        raise


def _listing(named: list[str]):
    return sys.stdin.buffer if "-" in named else None
