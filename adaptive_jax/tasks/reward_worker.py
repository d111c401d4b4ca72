"""The worker process of `rewards`: calls a reward function on one completion a line.

In: a line of base64 with the pickled import path and function; then for each job a JSON line [problem, text], the problem
pickled, in base64. Out: "ready", or what went wrong; then for each job {"value": x} or {"error": kind, "detail": text}.

What the function prints goes nowhere, and a process that it forks has no part in the protocol. JAX in it sees the CPU alone,
since the accelerator belongs to the parent. Its address space may grow by a fixed amount beyond what its imports take.
"""

import base64
import functools
import json
import math
import os
import pickle
import resource
import sys
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any

MOST = 4000  # characters of a traceback, its end


def main(megabytes: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    own = os.getpid()
    os.register_at_fork(after_in_child=functools.partial(os.closerange, requests.fileno(), replies.fileno() + 1))

    def reply(message: Any) -> None:
        if os.getpid() != own:  # a fork that came back from the function
            os._exit(0)
        print(json.dumps(message), file=replies, flush=True)

    try:
        sys.path[:], make = pickle.loads(base64.b64decode(requests.readline()))
        function = pickle.loads(make)()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except BaseException:
        reply(traceback.format_exc()[-MOST:])
        return
    reply("ready")
    for line in requests:
        problem, text = json.loads(line)
        try:
            reply(checked(function(pickle.loads(base64.b64decode(problem)), text)))
        except BaseException as fault:  # also SystemExit and KeyboardInterrupt: they are the function's
            own_frame = fault.__traceback__
            frames = traceback.format_exception(type(fault), fault, own_frame and own_frame.tb_next)
            reply({"error": type(fault).__name__, "detail": "".join(frames)[-MOST:]})


def checked(value: Any) -> dict[str, Any]:
    """The reply for what a reward function returned: a number in [0, 1], or the fault."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if not isinstance(value, int | float | Fraction):
        return {"error": "not a number", "detail": f"it returned {value!r:.100}; return a float in [0, 1] or a bool"}
    if math.isnan(value):
        return {"error": "NaN", "detail": "it returned NaN; return a float in [0, 1]"}
    if not 0 <= value <= 1:
        return {"error": "outside [0, 1]", "detail": f"it returned {value}; scale it to [0, 1]"}
    return {"value": float(value)}


if __name__ == "__main__":
    main(int(sys.argv[1]))
