"""What the benchmarks share: facts of the machine, what a child process cost, the plain cost of moving bytes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
CACHE = {  # compiled programs stay, as in the Makefile
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Cost(NamedTuple):
    """wall, cpu: seconds, cpu being user + system of the process and its children. anonymous: bytes at the peak."""

    wall: float
    cpu: float
    anonymous: int


def child(command: Sequence[str], **env: str) -> Cost:
    """Run a command to its end and take its cost. SystemExit with the end of its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()))
    reader.start()
    peak = 0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.01)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(said[-20:])}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak)


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


COPY = """
import os, sys
out, *files = sys.argv[1:]
total = os.path.getsize(files[0]) if files else 0
buffer = memoryview(bytearray(8 << 20))
read = 0
for file in files:
    handle = os.open(file, os.O_RDONLY)
    while n := os.readv(handle, [buffer]):
        read += n
    os.close(handle)
handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
left = int(os.environ["WRITTEN"])
while left > 0:
    left -= os.write(handle, buffer[: min(left, len(buffer))])
os.close(handle)
"""


def read_anew(files: Sequence[Path]) -> None:
    """Files out of the page cache and into it: pages that came in small pieces cost all who come after a sixth more."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while opened.read(1 << 23):
                pass


def floor(reads: Sequence[Path], written: int, out: Path) -> Cost:
    """Read some files once and write that many bytes, with nothing in between."""
    cost = child([sys.executable, "-c", COPY, str(out), *map(str, reads)], WRITTEN=str(written))
    out.unlink()
    return cost


def facts() -> dict[str, Any]:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory GiB": round(memory / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: found for name in ("jax", "numpy") if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, names left and numbers right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in (head, *rows)
    )


def write(path: Path | None, name: str, results: Mapping[str, Any]) -> None:
    """The results as JSON with the machine's facts; one file may hold several benchmarks."""
    if path is None:
        return
    found = json.loads(path.read_text()) if path.exists() else {}
    found[name] = {"machine": facts(), **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
