"""A service that also knows the time zones in the folder ZONES: `python -m tests.made_up_zones NAME`."""

import os
import runpy
import struct
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import reset_tzpath


def write_zone(file: Path, offset: timedelta, changes: Sequence[tuple[datetime, timedelta]]) -> None:
    """A zone as in RFC 8536, with its offset from UTC and those from given moments on."""
    offsets = [offset, *(each for _, each in changes)]
    header = b"TZif2" + bytes(15)
    moments = struct.pack(f">{len(changes)}q", *(int(at.timestamp()) for at, _ in changes))
    kinds = b"".join(struct.pack(">lBB", each // timedelta(seconds=1), 0, 0) for each in offsets)
    counts = struct.pack(">6l", 0, 0, 0, len(changes), len(offsets), 4)
    which = bytes(range(1, len(offsets)))
    file.write_bytes(header + bytes(24) + header + counts + moments + which + kinds + b"XYZ\0\n\n")


if __name__ == "__main__":
    from shared.contracts import zones  # noqa: F401, which leaves the machine's zones aside

    reset_tzpath([os.environ["ZONES"]])
    runpy.run_module(f"services.{sys.argv[1]}", run_name="__main__", alter_sys=True)
