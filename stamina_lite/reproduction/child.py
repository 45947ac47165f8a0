"""Runs a module as `python -m` does, in a process that ends when the one that began it ends.

    python -m stamina_lite.reproduction.child PARENT MODULE [ARGUMENTS]

So a run whose engine is killed leaves no process that holds the run's lock. Only Linux can do this; on other systems
such a process runs to its end.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    parent, module = sys.argv[1:3]
    del sys.argv[1:3]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it has ended already
            sys.exit(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
