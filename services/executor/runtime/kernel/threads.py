"""A thread of its own for what changes the calling thread for good: its root, its mount namespace."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def in_a_thread(action: Callable[[], int]) -> int:
    """What `action` returns or raises, called by a thread that ends with it."""
    import threading

    found: list[int] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            found.append(action())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return found[0]
