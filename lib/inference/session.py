"""Open and run an ONNX file.

In: an ONNX file. Out: its outputs, and its speed. `python -m lib.inference.session FILE` prints the
peak memory in MiB of a process that only predicts with it.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from lib.exceptions import ExportError
from lib.system import peak_memory_mb

THREADS = 2  # as on a small laptop; latencies are reported for this number
CPU, CUDA = "cpu", "cuda"

_PROVIDERS: dict[str, list] = {
    CPU: ["CPUExecutionProvider"],
    CUDA: [
        # TF32 rounds to 10 bits; a search among algorithms may choose others in the next process
        ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        "CPUExecutionProvider",
    ],
}


def cuda_installed() -> bool:
    """Return whether this onnxruntime can use CUDA; a device need not be there."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def open_session(path: Path, threads: int, device: str = CPU) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU or on CUDA with the settings of serving.

    No memory is kept between predictions, and threads do not spin while they wait. Raises
    ExportError for a file that is missing or not an ONNX model, and where CUDA cannot be used.
    """
    if not path.is_file():
        raise ExportError(
            f"{path} is not a file; export a trained run with `cxr export RUN`, or name another model"
        )
    if device == CUDA:
        _load_cuda()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the memory of the largest batch
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning threads would occupy whole cores
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_PROVIDERS[device])
    except Exception as error:  # onnxruntime's own types have no common base
        raise ExportError(
            f"{path} cannot be loaded as an ONNX model; export it again ({error})"
        ) from error
    session.disable_fallback()  # an error on CUDA must not become predictions of the CPU
    if device == CUDA and "CUDAExecutionProvider" not in session.get_providers():
        raise ExportError(
            "onnxruntime found no CUDA device that it can use; see its message above, "
            "or use --device cpu"
        )
    return session


def _load_cuda() -> None:
    if not cuda_installed():
        raise ExportError(
            "this onnxruntime has no CUDA: install onnxruntime-gpu in place of onnxruntime, "
            "or use --device cpu"
        )
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        onnxruntime.preload_dlls()  # finds the CUDA libraries that torch's packages bring


def run_file(path: Path, images: np.ndarray, batch: int = 16) -> dict[str, np.ndarray]:
    """Return the file's outputs for images (N, S, S) uint8, N >= 1.

    The outputs are by name, each (N, ...). `batch` images are computed at a time.
    """
    session = open_session(path, THREADS)
    names = [output.name for output in session.get_outputs()]
    parts = [
        session.run(names, {"images": images[i : i + batch]}) for i in range(0, len(images), batch)
    ]
    return {
        name: np.concatenate(values)
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def latencies_ms(paths: Mapping[str, Path], size: int, rounds: int = 20) -> dict[str, float]:
    """Return the median milliseconds per image of each file, at THREADS threads; see
    `latency_rounds`."""
    seconds = latency_rounds(paths, size, rounds)
    return {name: 1000 * float(np.median(times)) for name, times in seconds.items()}


def latency_rounds(paths: Mapping[str, Path], size: int, rounds: int = 20) -> dict[str, np.ndarray]:
    """Return the seconds per image of each file in every round (R,), at THREADS threads.

    `size` is the side of the image in pixels. The files take turns for `rounds` rounds, so that a
    busy machine slows all of them alike.
    """
    film = np.random.default_rng(0).integers(0, 256, (1, size, size), dtype=np.uint8)
    sessions = {name: open_session(path, THREADS) for name, path in paths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, session in sessions.items():
            session.run(
                None, {"images": film}
            )  # warm-up: the previous model's data still fills the caches
            start = time.perf_counter()
            session.run(None, {"images": film})
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in seconds.items()}


def _print_peak_memory(path: str) -> None:
    from lib.inference.predictor import Predictor  # which imports this module

    predictor = Predictor(path, THREADS)
    for _ in range(5):
        predictor.warm_up()
    print(peak_memory_mb())


if __name__ == "__main__":
    _print_peak_memory(sys.argv[1])
