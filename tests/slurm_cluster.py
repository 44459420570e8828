"""A real Slurm of one node on loopback, for tests: munged, slurmctld and slurmd, stopped by pid.

Debian: apt-get install --no-install-recommends slurm-wlm munge
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort=26917
SlurmdPort=26918
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=30
MinJobAge=600
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} Sockets=1 CoresPerSocket={cpus} \
ThreadsPerCore=1 RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
# AuthInfo's cred_expire is how long a job that was queued again must wait: 120 s elsewhere


def why_not() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    if os.geteuid() != 0:
        return "slurmd runs jobs as their user: root only"
    return None


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Start the daemons; yields the path for SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 8 // 10
    conf.write_text(CONF.format(folder=folder, cpus=os.cpu_count(), memory=memory))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munged = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--key-file={key}",
         f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
         f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _until(lambda: (folder / "munge.socket").exists(), "munged")
        environment = {**os.environ, "SLURM_CONF": str(conf)}
        for daemon in (["slurmctld", "-c"], ["slurmd", "-c", "-N", "localhost"]):
            subprocess.run([*daemon, "-f", str(conf)], check=True, env=environment)
        _until(lambda: _node_state(environment) == "idle", "slurmctld and slurmd")
        yield conf
    finally:
        for name in ("slurmd", "slurmctld"):
            if (folder / f"{name}.pid").exists():
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
                _until(lambda name=name: not (folder / f"{name}.pid").exists(), f"end of {name}")
        munged.terminate()
        munged.wait(timeout=10)


def _node_state(environment: dict[str, str]) -> str:
    asked = subprocess.run(
        ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, env=environment, check=False
    )
    return asked.stdout.strip()


def _until(holds, what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come")
        time.sleep(0.1)
