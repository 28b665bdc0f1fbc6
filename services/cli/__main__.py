"""`registry`: where the command line begins. The commands are in `app`."""


def main() -> None:
    from services.cli.app import main

    main()


if __name__ == "__main__":
    main()
