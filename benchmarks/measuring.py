"""What the benchmarks share: seconds and memory of a command with all its processes, the page cache, the machine."""

import contextlib
import glob
import os
import platform
import re
import subprocess
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from mmtmerge import __version__

INTERVAL = 0.02  # seconds between two looks at the memory
PAGES = ("VmRSS", "RssAnon")  # resident pages of a process: with those of mapped files, and without
BUFFER = 1 << 22  # bytes that the floor reads or writes at once
PACKAGES = ("mergekit", "torch", "transformers", "safetensors")


# Memory


def process_tree(pid):
    "A process and all that it started."
    yield pid
    for file in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError):  # it may have ended
            for child in Path(file).read_text().split():
                yield from process_tree(int(child))


def resident(pid):
    "Resident bytes of one process by kind; nothing if it has ended."
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    found = re.findall(rf"^({'|'.join(PAGES)}):\s+(\d+)", status, re.M)
    return {kind: 1024 * int(kilobytes) for kind, kilobytes in found}


def watch(pid, peak, ended):
    "Keep the largest memory of a process tree in `peak` until the event is set."
    while not ended.wait(INTERVAL):
        now = dict.fromkeys(PAGES, 0)
        for process in process_tree(pid):
            for kind, size in resident(process).items():
                now[kind] += size
        for kind in PAGES:
            peak[kind] = max(peak[kind], now[kind])


@contextlib.contextmanager
def watched(pid):
    "The largest memory of a process tree by kind, which grows while the block runs."
    peak, ended = dict.fromkeys(PAGES, 0), threading.Event()
    watcher = threading.Thread(target=watch, args=(pid, peak, ended))
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


# Time


def settle(cold=()):
    "Write to disk what waits for it, and take files out of the page cache."
    os.sync()  # only what is on disk can leave the cache
    for file in cold:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Run(NamedTuple):
    "What one run of a command took."

    seconds: float
    peak: int  # bytes of the whole process tree
    peak_anonymous: int  # without pages of mapped files


def measure(
    arguments,  # of the command
    log,  # file for all that it prints
    cold=(),  # files that are to be read from disk
):
    "Run a command. Raises UserError if it fails."
    settle(cold)
    with open(log, "wb") as output:
        streams = dict(stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        start = time.perf_counter()
        process = subprocess.Popen([*map(str, arguments)], **streams)
        with watched(process.pid) as peak:
            try:
                process.wait()
                seconds = time.perf_counter() - start
            finally:
                process.kill()
    status = process.returncode
    printed = log.read_text(errors="replace")[-2000:]
    require(status == 0, f"{log.stem} ended with status {status}:\n{printed}")
    return Run(seconds, *peak.values())


def best_of(runs):
    "The shortest time and the largest memory of several runs."
    seconds, peaks, anonymous = zip(*runs)
    return {"seconds": min(seconds), "all": seconds, "peak": max(peaks), "peak_anonymous": max(anonymous)}


def listed(measured):
    "Seconds of every tool, as they are printed."
    return ", ".join(f"{tool} {best['seconds']:.2f} s" for tool, best in measured.items())


def read_and_write(
    files,
    size,  # bytes to write
    out,  # file to write
    cold=(),  # files that are to be read from disk
):
    "Seconds that nothing but reading the files and writing one takes, with one buffer in one thread."
    out.unlink(missing_ok=True)
    settle(cold)
    buffer, start = bytearray(BUFFER), time.perf_counter()
    for file in files:
        with open(file, "rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
    with open(out, "wb", buffering=0) as target:
        for written in range(0, size, BUFFER):
            target.write(memoryview(buffer)[: size - written])
    return time.perf_counter() - start


# The machine


def installed(package):
    "Version of a package, or None."
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine():
    "Where something was measured, and with what."
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": model and model[1],
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "mmtmerge": __version__,
    }
from mmtmerge.core import require
