"""A Slurm of one node in a temporary folder: python tests/system/slurm.py FOLDER COMMAND...

It is made of Debian's packages, without systemd, munge or anything installed.

The packages are downloaded and unpacked, never installed. Messages are not authenticated: for tests on one
machine only."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ["slurmctld", "slurmd", "slurm-client"]
CONF = """ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/none
CredType=cred/none
PluginDir={lib}/slurm-wlm
SlurmUser={user}
SlurmdUser=root
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/builtin
ReturnToService=2
MinJobAge=300
KillWait=3
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class NoSlurm(Exception):
    "Slurm cannot be set up here, and why."


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def unpack(at: Path):
    "Download and unpack the packages and what they need; returns the root of their files."
    if os.geteuid():
        raise NoSlurm("slurmd wants to be root")
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NoSlurm("no Debian")
    archives, to = at / "archives", at / "root"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    for words in (
        ["update"],
        [
            "install",
            "-y",
            "--no-install-recommends",
            "--download-only",
            "-o",
            f"Dir::Cache::archives={archives}",
            *PACKAGES,
        ],
    ):
        got = subprocess.run(
            ["apt-get", "-qq", *words],
            capture_output=True,
            text=True,
            env=os.environ | dict(DEBIAN_FRONTEND="noninteractive"),
        )
        if got.returncode:
            raise NoSlurm(
                f"apt-get {words[0]}: {got.stderr.strip().splitlines()[-1] if got.stderr.strip() else got.returncode}"
            )
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, to], check=True)
    for program in to.glob("usr/sbin/*-wlm"):
        (program.parent / program.name.removesuffix("-wlm")).symlink_to(program.name)
    return to


class Slurm:
    "Start it with `with`; `env` is what its users need."

    def __init__(self, at: Path, cpus=2, memory=8000):
        self.at, self.root = Path(at), unpack(Path(at))
        lib, host = next(self.root.glob("usr/lib/*-linux-gnu")), socket.gethostname().split(".")[0]
        for folder in ("state", "spool"):
            (self.at / folder).mkdir()
        conf = self.at / "slurm.conf"
        import pwd

        conf.write_text(
            CONF.format(
                at=self.at,
                lib=lib,
                host=host,
                user=pwd.getpwuid(os.geteuid()).pw_name,
                ports=free_ports(2),
                cpus=cpus,
                memory=memory,
            )
        )
        # not in the environment, which may be cleaned where jobs are submitted
        settings = f"SLURM_CONF={conf} LD_LIBRARY_PATH={lib}:{lib}/slurm-wlm"
        (self.at / "bin").mkdir()
        for program in [*self.root.glob("usr/bin/*"), *self.root.glob("usr/sbin/*")]:
            wrapper = self.at / "bin" / program.name
            wrapper.write_text(f'#!/bin/sh\n{settings} exec {program} "$@"\n')
            wrapper.chmod(0o755)
        self.path = f"{self.at}/bin:{os.environ['PATH']}"
        self.env = os.environ | dict(PATH=self.path)

    def say(self, *words):
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)

    def __enter__(self):
        self.daemons = [
            subprocess.Popen(
                [self.at / "bin" / name, "-D", *more],
                env=self.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for name, more in (
                ("slurmctld", ["-i", "-f", self.at / "slurm.conf"]),
                ("slurmd", ["-f", self.at / "slurm.conf", "-d", self.root / "usr/sbin/slurmstepd"]),
            )
        ]
        until = time.time() + 30
        while "idle" not in (said := self.say("sinfo", "-h", "-o", "%T").stdout) and time.time() < until:
            time.sleep(0.2)
        if "idle" not in said:
            logs = "".join(f"{f.name}: {f.read_text()[-800:]}\n" for f in self.at.glob("*.log"))
            self.__exit__()
            raise NoSlurm(f"it does not start\n{logs}")
        return self

    def __exit__(self, *_):
        self.say("scancel", "--state=RUNNING,PENDING", "-u", "root")
        for d in reversed(self.daemons):
            d.terminate()
            try:
                d.wait(10)
            except subprocess.TimeoutExpired:
                d.kill()
                d.wait()


if __name__ == "__main__":
    with Slurm(Path(sys.argv[1])) as slurm:
        sys.exit(subprocess.run(sys.argv[2:], env=slurm.env).returncode)
