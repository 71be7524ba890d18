"""Reads that the edge answers by itself are as new as any answer before them, while services are killed."""

from __future__ import annotations

import threading
import time

import docker
import pytest
import requests

from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

LASTS_S = 12.0
READERS = 3


class Told:
    """The newest number that anybody has been told; numbers are in names, and only grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.number = 0
        self.reads = 0
        self.wrong: list[str] = []

    def told(self, number: int) -> None:
        with self._lock:
            self.number = max(self.number, number)

    def wait_for_more(self, count: int, killed: str) -> None:
        wanted = self.reads + count
        eventually(lambda: self.reads > wanted, 30, f"reads after {killed} was killed")

    def read(self, what: str, number: int, before: int) -> None:
        with self._lock:
            self.reads += 1
            if number < before:
                self.wrong.append(f"{what} said {number} after somebody had been told {before}")
        self.told(number)


def client_of(engine: Engine) -> docker.APIClient:
    return docker.APIClient(base_url=engine.url, version="1.41", timeout=30)


def rename(engine: Engine, told: Told, container: str, over: threading.Event) -> None:
    client, number = client_of(engine), 0
    while not over.is_set():
        number += 1
        try:
            client.rename(container, f"n{number}")
            told.told(number)
        except (docker.errors.APIError, requests.RequestException):  # killed over it: it may have been done or not
            time.sleep(0.05)
        time.sleep(0.01)


def read(engine: Engine, told: Told, container: str, over: threading.Event) -> None:
    client = client_of(engine)
    while not over.is_set():
        before = told.number
        try:
            shown = client.inspect_container(container)["Name"]
            told.read("inspect", int(shown.removeprefix("/n")), before)
            before = told.number
            listed = client.containers(all=True)[0]["Names"][0]
            told.read("list", int(listed.removeprefix("/n")), before)
        except (docker.errors.APIError, requests.RequestException):  # the edge itself was killed
            time.sleep(0.05)


def test_no_read_is_older_than_an_answer_before_it(engine: Engine) -> None:
    container = engine.docker("create", "--name", "n0", "busybox", "true").stdout.strip()
    told, over = Told(), threading.Event()
    threads = [threading.Thread(target=rename, args=(engine, told, container, over))]
    threads += [threading.Thread(target=read, args=(engine, told, container, over)) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + LASTS_S
        while time.monotonic() < until:
            for name in ("control", "api", "image"):
                engine.kill(name)
                told.wait_for_more(20, name)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert told.wrong == []
    assert told.number > 10
