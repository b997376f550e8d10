"""`python -m anamnesis`: the command line, where its scripts are not on the path."""

from anamnesis.cli.main import main

if __name__ == "__main__":
    main()
