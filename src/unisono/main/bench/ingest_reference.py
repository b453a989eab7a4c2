"""What ingesting costs as one would write it first: a nats-py subscription, json.loads, a scalar write a column.

    python -m unisono.main.bench.ingest_reference URL USER PASSWORD N_DEVICES

Says ``ready``; at a line on stdin it prints how many messages came and how much CPU they took.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

import nats
import numpy as np
from nats.aio.msg import Msg

from unisono.main.bench.ingest_fleet import device_id


async def _main(url: str, user: str, password: str, n_devices: int) -> None:
    row_of_id = {device_id(no): no for no in range(1, n_devices + 1)}
    measured_ms = np.zeros(n_devices + 1, np.int64)
    power_w, soc_frac = np.full(n_devices + 1, np.nan), np.full(n_devices + 1, np.nan)
    n_messages = 0

    async def on_message(message: Msg) -> None:
        nonlocal n_messages
        n_messages += 1
        row = row_of_id.get(message.subject.split(".")[2])
        reading = json.loads(message.data)
        if row is not None and reading["ts"] > measured_ms[row]:
            measured_ms[row] = reading["ts"]
            power_w[row] = reading["p"]
            soc_frac[row] = reading["soc"]

    client = await nats.connect(url, user=user, password=password)
    await client.subscribe("u.*.*.t", cb=on_message, pending_msgs_limit=0, pending_bytes_limit=0)
    await client.flush()
    before = resource.getrusage(resource.RUSAGE_SELF)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"n_messages": n_messages, "cpu_s": cpu_s}), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
