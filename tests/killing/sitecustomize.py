"""Kills the process that writes a file, or its parent, in the midst of it: for test_killing.

Python imports this at every start where the folder is in PYTHONPATH. KILL_AT says what and when:
`checkpoint.pt 3 self` is the third time that the file is written; `after checkpoint.pt 1 self` is
once it stands there.
"""

import os
import signal

*moment, file_name, number, whom = os.environ["KILL_AT"].split()
fsync, replace = os.fsync, os.replace
seen = 0


def kill() -> None:
    global seen
    seen += 1
    if seen == int(number):
        os.kill(os.getpid() if whom == "self" else os.getppid(), signal.SIGKILL)


def fsync_or_die(descriptor: int) -> None:
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/.{file_name}.partial"):
        if whom == "self" and seen + 1 == int(number):
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
        kill()
    fsync(descriptor)


def replace_and_die(source, target, **kwargs) -> None:
    replace(source, target, **kwargs)
    if os.path.basename(target) == file_name:
        kill()


if moment == ["after"]:
    os.replace = replace_and_die
else:
    os.fsync = fsync_or_die
