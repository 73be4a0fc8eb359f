"""python -m metasdf: the same as the program `metasdf`."""

from metasdf.commands.main import entry

if __name__ == "__main__":
    entry()
