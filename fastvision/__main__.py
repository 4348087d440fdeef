"""``python -m fastvision`` is the command ``fastvision``."""

from fastvision.cli import main

if __name__ == "__main__":
    main()
