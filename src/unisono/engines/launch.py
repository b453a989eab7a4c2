"""Become another program: drop root if asked, ask to be told of the parent's death, then exec. Run as a script.

    python -I -S launch.py <drop> <death signal> <parent pid> program argument...

``drop``: ``none``; ``namespace`` (a user namespace in which root is an ordinary user: PostgreSQL refuses root, and
this way nothing changes owner); ``nobody`` (setuid, for containers that forbid user namespaces). It is a script of
its own, and not a ``preexec_fn``, because code between fork and exec of a threaded process may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

# linux/sched.h and linux/prctl.h
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
# The id that Linux shows for "nobody" and for everything unmapped.
NOBODY = 65534


def become_ordinary_by_namespace() -> None:
    """Enter a user namespace in which we are user 65534; files on disk keep belonging to who we are outside."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER) is refused")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def die_with_parent(death_signal: int, parent: int) -> None:
    """Ask the kernel (Linux only) for ``death_signal`` when the thread that started us ends; leave if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)


def main(arguments: list[str]) -> None:
    """Do what the module says; returns only by exec or exit."""
    drop, death_signal, parent, *command = arguments
    if drop == "namespace":
        become_ordinary_by_namespace()
    elif drop == "nobody":
        become_nobody()
    # After the change of user, which would clear it.
    die_with_parent(int(death_signal), int(parent))
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
