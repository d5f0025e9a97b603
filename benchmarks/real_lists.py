"""Draw the splits of the real tasks, and write the lists of digests that fix them.

    tensorfact fetch tasks && python -m benchmarks.real_lists

The lists are committed and do not change: results of different lists cannot be compared. This is how they were made.
"""

from __future__ import annotations

from pathlib import Path

from tensorfact.lab.data.real import REAL, lists

TRAIN, VAL, TEST = 800, 200, 1000


def main() -> None:
    """Write a list for each task."""
    for name, task in REAL.items():
        drawn = lists.draw_list(task.pool(), TRAIN, VAL, TEST)
        path = Path(lists.__file__).parent / lists.FOLDER / f"{name}.txt"
        path.write_text(lists.written_list(drawn))
        print(f"{path.name}: {', '.join(f'{len(each)} {part}' for part, each in drawn.items())}")


if __name__ == "__main__":
    main()
