"""`python -m kinoml_data` is the command `kinoml-data`."""

from kinoml_data.cli.main import main

if __name__ == "__main__":
    main()
