"""Starts a command and prints what it cost as JSON: python -I -S timed.py LOG LIMIT_S COMMAND ..."""

import json
import os
import subprocess
import sys
import threading
import time

start = time.perf_counter()
with open(sys.argv[1], "w") as log:
    process = subprocess.Popen(sys.argv[3:], stdout=log, stderr=subprocess.STDOUT)
    limit = threading.Timer(float(sys.argv[2]), process.kill)
    limit.start()
    _, _, usage = os.wait4(process.pid, 0)
    limit.cancel()
cost = {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime, "memory_mb": usage.ru_maxrss / 1024}
print(json.dumps(cost))
