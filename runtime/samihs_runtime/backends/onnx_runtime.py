"""ONNX Runtime's module and its sessions, for the backends ``cpu`` and ``cuda``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samihs_runtime.backends.contract import DECODER, ENCODER, GraphContract
from samihs_runtime.backends.exchange import exchanged_graph, exchanged_tensors
from samihs_runtime.bundle import Bundle
from samihs_runtime.errors import BackendError, BundleError, DeviceMemoryError

_FULL_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")
"""What ONNX Runtime's arena, CUDA and cuBLAS or cuDNN report if memory is short."""
ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error."""
EXACT_INT8 = ("session.x64quantprecision", "1")
"""Session entry: sum 8-bit products without overflow. x86 CPUs without VNNI add pairs of them in 16
bits, which saturate, so that answers of int8 graphs were far off. With VNNI it changes nothing."""
CPU_PROVIDER = "CPUExecutionProvider"
_ABOUT_THE_GRAPH = (
    "INVALID_GRAPH",
    "INVALID_PROTOBUF",
    "NO_SUCHFILE",
    "NO_MODEL",
    "NOT_IMPLEMENTED",
)
"""ONNX Runtime's codes for a graph that it cannot read or has no kernels for."""
_DOING = {ENCODER.part: "encode a slice", DECODER.part: "answer a prompt"}


class SessionMaker:
    """Makes the sessions of one bundle, each checked against the contract."""

    def __init__(self, ort: Any, bundle: Bundle) -> None:
        """Loads nothing yet.

        Args:
            ort: the onnxruntime module.
            bundle: an opened bundle.

        Raises:
            BundleError: it has no ONNX graphs, or the chosen adapters do not fit them.
        """
        files = bundle.graph("onnx")
        bundle.adapter_tensors("onnx", files.precision)  # raises here, not at the first slice
        self.ort = ort
        self.precision = files.precision
        self._bundle = bundle
        self._paths = {ENCODER.part: files.encoder, DECODER.part: files.decoder}

    def make(
        self,
        contract: GraphContract,
        provider: str,
        provider_options: Mapping[str, str],
        configure: Callable[[Any], None] = lambda options: None,
        without: Sequence[str] = (),
    ) -> Any:
        """Make a session for one graph, on the named provider and no other.

        Args:
            contract: which graph.
            provider: such as ``CPUExecutionProvider``.
            provider_options: the provider's options.
            configure: sets further ``SessionOptions``.
            without: ONNX Runtime's optimizers to disable.

        Raises:
            BundleError: ONNX Runtime refuses the graph, its tensors do not match the contract, or
                it was changed since the bundle was opened.
            BackendError: the provider did not start; DeviceMemoryError if memory is short.
        """
        path = self._paths[contract.part]
        self._check_unchanged(path)
        tensors = exchanged_tensors(self._bundle, "onnx", self.precision, contract.part)
        options = self.ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        configure(options)
        graph = str(path) if tensors is None else exchanged_graph(path, tensors)
        try:
            session = self.ort.InferenceSession(
                graph,
                sess_options=options,
                providers=[(provider, dict(provider_options))],
                disabled_optimizers=list(without),
                enable_fallback=0,  # otherwise it prints a message and continues on the CPU
            )
        except Exception as error:  # onnxruntime's own classes derive from Exception
            if _is_full(error):
                raise DeviceMemoryError(f"no memory for the {contract.part}: {error}") from error
            if provider != CPU_PROVIDER and not _is_about_the_graph(error):
                raise BackendError(
                    f"onnxruntime's {provider} did not start: {error}; see samihs-doctor"
                ) from error
            raise BundleError(
                f"onnxruntime {self.ort.__version__} cannot load {path}: {error}; export the "
                "bundle again, or install a newer onnxruntime"
            ) from error
        if provider not in session.get_providers():
            raise BackendError(
                f"onnxruntime's {provider} did not start and it fell back to "
                f"{', '.join(session.get_providers())}: CUDA or cuDNN of the version it wants is "
                "missing; samihs-doctor says which"
            )
        contract.check(_types(session.get_inputs()), _types(session.get_outputs()), str(path))
        return session

    def _check_unchanged(self, graph: Path) -> None:
        self._bundle.check_unchanged(graph)
        tensors = self._bundle.adapter_tensors("onnx", self.precision)
        if tensors is not None:
            self._bundle.check_unchanged(tensors)


@contextmanager
def faults_of(backend: str, contract: GraphContract) -> Iterator[None]:
    """Turn exceptions that ONNX Runtime raises during a run into our own errors.

    Raises:
        DeviceMemoryError: memory was short.
        BackendError: anything else.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's own classes derive from Exception
        kind = DeviceMemoryError if _is_full(error) else BackendError
        raise kind(f"the {backend} backend could not {_DOING[contract.part]}: {error}") from error


def import_onnxruntime(extra: str) -> Any:
    """The module, or an error that names what to install.

    Args:
        extra: ``cpu`` or ``gpu``, for the message.

    Raises:
        BackendError: it is missing, or its folder lacks its library (the result of uninstalling one
            of the two packages that share the folder).
    """
    mend = f"pip install 'samihs[{extra}]'"
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"onnxruntime is not installed ({error}): {mend}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise BackendError(
            "onnxruntime is installed in part: onnxruntime and onnxruntime-gpu overwrite each "
            f"other; pip uninstall both, then {mend}"
        )
    return onnxruntime


def _is_full(error: Exception) -> bool:
    return any(words in str(error) for words in _FULL_MEMORY)


def _is_about_the_graph(error: Exception) -> bool:
    return any(code in str(error) for code in _ABOUT_THE_GRAPH)


def _types(tensors: Sequence[Any]) -> dict[str, str]:
    names = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}
    return {each.name: names.get(each.type, each.type) for each in tensors}
