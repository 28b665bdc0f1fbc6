"""`registry`: where the command line begins. The commands are in `app`; two start without it."""

import sys


def main() -> None:
    if sys.argv[1:2] in (["beat"], ["exec"]):
        from services.cli import quick

        quick.main(sys.argv[1], sys.argv[2:])
    from services.cli import app

    app.main()


if __name__ == "__main__":
    main()
