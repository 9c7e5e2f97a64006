"""Runs the command `kinoml-data` for `python -m kinoml_data`."""

from kinoml_data.cli.main import main

if __name__ == "__main__":
    main()
