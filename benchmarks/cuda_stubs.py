"""Empty CUDA libraries, so that ONNX Runtime's GPU package can be asked questions on a machine without a GPU.

    pip install --no-deps --target GPU onnxruntime-gpu==1.31.1
    python -m benchmarks.cuda_stubs GPU/onnxruntime/capi STUBS
    LD_LIBRARY_PATH=STUBS PYTHONPATH=GPU:. python -m benchmarks.placement lenet --provider cuda --open
    LD_LIBRARY_PATH=STUBS PYTHONPATH=GPU:. python -m benchmarks.kernels onnxmx/trainer/kernels.json

Memory is memory of the CPU, and every other call succeeds and does nothing: sessions open, and ONNX Runtime places
each node as it would, but no kernel computes anything. Wants `nm`, `objdump`, `strings` and `gcc`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_THERE = re.compile(r"^(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux.*|libonnxruntime.*)\.so")
_ALLOCATE = "int {0}(void **p, size_t n) {{ *p = calloc(n + 256, 1); return 0; }}"
_COPY = "int {0}(void *to, const void *from, size_t n) {{ memmove(to, from, n); return 0; }}"
_ONE = "int {0}(int *n) {{ *n = {1}; return 0; }}"
_MADE = "int {0}(void **p) {{ *p = calloc(4096, 1); return 0; }}"
_WORKING = {
    **dict.fromkeys(("cudaMalloc", "cudaMallocHost", "cudaHostAlloc", "cudaMallocAsync"), _ALLOCATE),
    **dict.fromkeys(("cudaMemcpy", "cudaMemcpyAsync"), _COPY),
    **dict.fromkeys(("cudaStreamCreate", "cudaStreamCreateWithFlags"), _MADE),
    **dict.fromkeys(("cudaEventCreate", "cudaEventCreateWithFlags"), _MADE),
    "cudaGetDeviceCount": _ONE.replace("{1}", "1"),
    "cudaGetDevice": _ONE.replace("{1}", "0"),
    "cudaRuntimeGetVersion": _ONE.replace("{1}", "13000"),
    "cudaDriverGetVersion": _ONE.replace("{1}", "13000"),
    "cudaMemGetInfo": "int {0}(size_t *a, size_t *b) {{ *a = *b = 1ul << 36; return 0; }}",
    "cudaGetErrorString": 'const char *{0}(int e) {{ return "a stub"; }}',
    "cudaGetErrorName": 'const char *{0}(int e) {{ return "a stub"; }}',
    "cudnnDropoutGetStatesSize": "int {0}(void *h, size_t *n) {{ *n = 4096; return 0; }}",
    "cudnnGetVersion": "size_t {0}(void) {{ return 91000; }}",
}
_EMPTY = "long {0}(void) {{ return 0; }}"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wanted(library: Path) -> dict[str, set[str]]:
    """The functions that a library wants of others that are not on this machine, by their file names."""
    others = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", str(library)))
    found: dict[str, set[str]] = {name: set() for name in others if not _THERE.match(name)}
    for line in run("nm", "-D", "--undefined-only", str(library)).splitlines():
        name, _, version = line.split()[-1].partition("@")
        if version.strip("@") in found:
            found[version.strip("@")].add(name)
        elif not version and not name.startswith("_"):  # of a library without versions: of any
            for functions in found.values():
                functions.add(name)
    return found


def write(folder: Path, library: str, functions: set[str]) -> None:
    bodies = [_WORKING.get(f, _MADE if f.startswith("cudnnCreate") else _EMPTY).format(f) for f in sorted(functions)]
    source, versions = folder / f"{library}.c", folder / f"{library}.map"
    source.write_text("\n".join(["#include <stdlib.h>", "#include <string.h>", *bodies, ""]))
    versions.write_text(f"{library} {{ global: *; }};\n")
    named = [f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
    run("gcc", "-w", "-shared", "-fPIC", "-o", str(folder / library), str(source), *named)


def main() -> None:
    capi, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, set[str]] = {}
    for library in capi.glob("libonnxruntime_providers_*.so"):
        for name, functions in wanted(library).items():
            found.setdefault(name, set()).update(functions)
        # cuDNN is opened by name, and its functions are looked up.
        words = re.findall(r"cudnn[A-Z]\w+$", run("strings", "-a", str(library)), re.MULTILINE)
        found.setdefault("libcudnn.so.9", set()).update(words)
    for name, functions in found.items():
        write(folder, name, functions)
        print(f"{folder / name}: {len(functions)} functions")


if __name__ == "__main__":
    main()
