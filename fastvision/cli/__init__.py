"""The command ``fastvision``. Its libraries are imported only when it runs: they belong to the extra ``cli``."""

import sys

KEYBOARD_INTERRUPT = 130  # exit status of a program that Ctrl-C ended, as shells expect it


def main() -> None:
    """Runs the command line in ``sys.argv`` and exits."""
    try:
        from fastvision.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich"):
            raise
        sys.exit("fastvision: the command line needs typer and rich: pip install 'fastvision[cli]'")
    except KeyboardInterrupt:
        sys.exit(KEYBOARD_INTERRUPT)
    app(prog_name="fastvision")
