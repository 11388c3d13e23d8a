"""Where the time of an encode and a click goes, by operator: the profile behind ``peers.py``.

    python benchmarks/operators.py [--model vit_b] [--rounds 5]

ONNX Runtime's own profile of the graphs that this project's CPU backend runs, as it runs them, and
torch's profile of segment-anything's ``SamPredictor``: the same random weights, pictures and number
of threads, a round of each in turn. With ``--model shipped`` there is no rival to compare with.

For products and convolutions, the report gives the share of the machine's rate at which they run.
Profiling itself takes time: what matters here are the shares; for totals, see ``peers.py``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import floors
import numpy as np
import peers
import traces
from peers_inputs import SIZE, points_of, slice_of
from peers_predictor import eager
from record import Record, Series, command_line
from stopwatch import seconds
from tables import EAGER
from torch_threads import torch_threads
from traces import Profile
from weights import of_shipped

from samihs_runtime.backends.cpu_threads import cpu_threads
from samihs_runtime.backends.onnx_cpu import CpuBackend
from samihs_runtime.backends.onnx_runtime import SessionMaker, import_onnxruntime
from samihs_runtime.bundle import Bundle, shipped_bundle
from samihs_runtime.timing import Timings

SHIPPED = "shipped"
PARTS = ("encode", "click")


class OnnxRuntime:
    """A bundle's graphs on the CPU backend, with ONNX Runtime's profiler on."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        """``folder``: for the traces, and for the graphs as optimised by ONNX Runtime."""
        opened = Bundle.open(bundle)
        self._graphs = [folder / f"{bundle.name}-{part}.onnx" for part in PARTS]
        self._sessions: list[Any] = []
        maker = SessionMaker(self._watched(), opened)
        self._backend = CpuBackend(maker, opened.manifest.mask_size, Timings())
        self._backend.load()  # the encoder's session first, then the decoder's
        window = opened.manifest.window
        self._window = np.asarray([[window.low, window.high]], np.float32)

    def _watched(self) -> Any:
        """The module onnxruntime, except that sessions are profiled, and kept here."""
        ort, graphs = import_onnxruntime("cpu"), iter(self._graphs)

        def options() -> Any:
            made, graph = ort.SessionOptions(), next(graphs)
            made.enable_profiling = True
            made.profile_file_prefix = str(graph.with_suffix(""))
            made.optimized_model_filepath = str(graph)
            beside = "session.optimized_model_external_initializers_file_name"
            made.add_session_config_entry(beside, f"{graph.name}.weights")
            return made

        def session(*arguments: Any, **named: Any) -> Any:
            self._sessions.append(ort.InferenceSession(*arguments, **named))
            return self._sessions[-1]

        return SimpleNamespace(
            __version__=ort.__version__, SessionOptions=options, InferenceSession=session
        )

    def run(self, turn: int) -> None:
        """An encode and a click."""
        hu = slice_of(turn)[None, None]
        embeddings = self._backend.encode(hu, self._window)
        # The second point is the padding point that stands for "no box".
        points = np.stack([points_of(1, turn)[0], np.zeros(2)])[None].astype(np.float32)
        self._backend.decode(embeddings, points, np.asarray([[1, -1]], np.int32), None)

    def profiles(self) -> dict[str, Profile]:
        """Of encode and click, without the first run of each; ends profiling, so call it last."""
        found = {
            part: traces.onnx_runtime(Path(session.end_profiling()), traces.weights_of(graph))
            for part, session, graph in zip(PARTS, self._sessions, self._graphs, strict=True)
        }
        self._backend.close()
        return found


class Torch:
    """segment-anything's ``SamPredictor`` in float32, with torch's profiler on."""

    def __init__(self, folder: Path) -> None:
        self._predictor = eager(folder, "eager fp32")
        self._profiles = {part: Profile() for part in PARTS}
        self._warm = False

    def run(self, turn: int) -> None:
        """An encode and a click; the first of each is discarded."""
        works = {
            "encode": lambda: self._predictor.encode(turn),
            "click": lambda: self._predictor.click(1, turn),
        }
        for part, work in works.items():
            found = _profiled(work)
            if self._warm:
                self._profiles[part].add(*found)
        self._warm = True

    def profiles(self) -> dict[str, Profile]:
        """Of encode and click."""
        return self._profiles


def _profiled(work: Callable[[], object]) -> tuple[dict[str, float], dict[str, float]]:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as found:
        taken = seconds(work)
    return traces.torch_table(found.key_averages(), taken)


def measure(model: str = "vit_b", rounds: int = 5) -> Record:
    """Profiles of an encode and a click of each subject, in turn."""
    threads = cpu_threads()
    with (
        tempfile.TemporaryDirectory(prefix="samihs-operators-") as scratch,
        torch_threads(threads),
    ):
        folder = Path(scratch)
        subjects: dict[str, OnnxRuntime | Torch] = {}
        if model == SHIPPED:
            subjects["samihs"] = OnnxRuntime(shipped_bundle(), folder)
        else:
            for name, bundle in peers.prepare(folder, peers.config_named(model)).items():
                subjects[name] = OnnxRuntime(bundle, folder)
            subjects[EAGER] = Torch(folder)
        rates: list[list[Series]] = []
        for turn in range(rounds + 1):
            for subject in subjects.values():
                subject.run(turn)
            rates.append(floors.rates(threads, 1))
        found = {
            f"{name}, {part}": profile
            for name, subject in subjects.items()
            for part, profile in subject.profiles().items()
        }
    series = [
        Series(subject, operator, "s", tuple(taken))
        for subject, profile in found.items()
        for operator, taken in profile.seconds.items()
    ]
    flop = {subject: profile.flop for subject, profile in found.items()}
    settings = {"rounds": rounds, "slice_size": SIZE, "threads": threads, "flop": flop}
    machine = [
        replace(each[0], samples=tuple(one.samples[0] for one in each))
        for each in zip(*rates, strict=True)
    ]
    weights = of_shipped() if model == SHIPPED else {}
    return Record(f"operators-{model}", (*series, *machine), settings, weights=weights)


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="vit_b", help="vit_b, vit_l, vit_h; tiny; shipped")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    record = measure(options.model, options.rounds)
    print(f"written  {record.write(options.results)}")


if __name__ == "__main__":
    main()
