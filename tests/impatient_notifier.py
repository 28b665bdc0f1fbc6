"""The notifier, to which two seconds of deafness are worth telling: `python impatient_notifier.py`."""

from datetime import timedelta

from services.notifier import __main__ as notifier
from services.notifier import deafness

if __name__ == "__main__":
    deafness.TOLD_AFTER = timedelta(seconds=2)
    deafness.STARTUP_GRACE = timedelta(seconds=1)
    notifier.main()
