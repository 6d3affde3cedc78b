"""How a peer program of peers.py talks to it: a line of JSON asked for on stdin, a line of JSON answered on stdout.

Runs in every peer's environment: the standard library alone. Asked: {"do": NAME} of one of the works that the program
offers. Answered, once it is ready: {"ready": ...}; then, for each work: {"wall_s", "cpu_s", "result"}. Anything that
goes wrong is {"error": text}, and the end. What libraries print goes to stderr.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[], Any]


def serve(prepare: Callable[[], tuple[Any, Mapping[str, Work]]]) -> None:
    """Prepares, then does what it is asked for until stdin ends.

    prepare: gives what to say when ready (JSON), and works by name; a work's result is JSON or None. Wall time, and the
    CPU time of all threads of this process, of each work are measured here.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    try:
        said, works = prepare()
        answer(ready=said)
        for line in sys.stdin:
            work = works[json.loads(line)["do"]]
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            answer(wall_s=time.perf_counter() - wall, cpu_s=time.process_time() - cpu, result=result)
    except Exception:
        answer(error=traceback.format_exc())
        raise
