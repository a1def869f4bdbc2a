"""A cheap identity of files: equal identities mean equal contents, short of deliberate deception."""

import os
from hashlib import sha256
from pathlib import Path

SAMPLES = 16
SAMPLE_SIZE = 1 << 16


def file_identity(path: Path) -> str:
    """Return 32 hexadecimal digits of a hash over the file's size, modification time, and samples of its contents.

    Takes milliseconds, even for weights of many gigabytes. A copy has another identity. Raises `OSError`.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        last = max(0, status.st_size - SAMPLE_SIZE)
        for sample in range(SAMPLES):
            file.seek(last * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_SIZE))
    return digest.hexdigest()[:32]
