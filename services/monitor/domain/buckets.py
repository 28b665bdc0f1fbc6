"""The services are divided into buckets by their names: each is one part of the snapshot. Pure."""

import zlib

BUCKETS = 256


def bucket_of(name: str) -> int:
    return zlib.crc32(name.encode()) % BUCKETS
