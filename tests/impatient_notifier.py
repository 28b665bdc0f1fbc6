"""The notifier, to which two seconds of deafness are worth telling: `python impatient_notifier.py`."""

from datetime import timedelta

from services.notifier import __main__ as notifier
from services.notifier import broker_outage, deafness

if __name__ == "__main__":
    deafness.TOLD_AFTER = broker_outage.NOTIFY_AFTER = timedelta(seconds=2)
    deafness.STARTUP_GRACE = timedelta(seconds=1)
    notifier.main()
