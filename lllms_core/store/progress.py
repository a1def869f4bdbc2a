"""The progress of a download, in words."""

from lllms_core.store.download import DownloadStatus
from lllms_core.text.sizes import human_size, human_time


def progress_text(status: DownloadStatus) -> str:
    """Describe the progress of a transfer in a few words."""
    if status.state == "starting":
        return "starting"
    if status.state == "waiting":
        return "waiting: another process is fetching it"
    count = moved(status)
    share = f" of {human_size(status.total)}" if status.total else ""
    parts = [f"{'verified ' if status.state == 'verifying' else ''}{human_size(count)}{share}"]
    if status.speed > 0:
        parts.append(f"{human_size(status.speed)}/s")
    if status.seconds_left is not None:
        parts.append(f"{human_time(status.seconds_left)} left")
    return ", ".join(parts)


def moved(status: DownloadStatus) -> int:
    """Return the bytes done so far: verified, or received."""
    return status.checked if status.state == "verifying" else status.done
