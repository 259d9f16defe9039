"""``python -m pneumonia``, which is how the MLproject file starts us."""

from pneumonia.cli import main

if __name__ == "__main__":
    main()
