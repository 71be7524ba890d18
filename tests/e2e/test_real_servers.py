"""Real servers from Debian's packages: Redis with a volume and a port, nginx with a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.debian import nginx_image, redis_image
from tests.lab.engine import Engine, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def redis(engine: Engine, *command: str) -> str:
    """A command over the published port, by a client in the engine's network namespace."""
    return engine.inside("redis-cli", "-p", "26379", *command, check=False).stdout.strip()


def test_redis_keeps_its_data(engine: Engine) -> None:
    redis_image(engine)
    engine.docker("volume", "create", "redisdata")
    arguments = ("run", "-d", "--name", "db", "-v", "redisdata:/var/lib/redis", "-p", "26379:6379", "redis-lab")
    engine.docker(*arguments)
    eventually(lambda: redis(engine, "ping") == "PONG", 15)
    assert redis(engine, "set", "greeting", "hello") == "OK"
    assert engine.docker("exec", "db", "redis-cli", "get", "greeting").stdout.strip() == "hello"

    engine.docker("stop", "db")
    assert redis(engine, "ping") != "PONG"
    engine.docker("start", "db")
    eventually(lambda: redis(engine, "get", "greeting") == "hello", 15)

    engine.docker("rm", "-f", "db")
    engine.docker(*arguments)
    eventually(lambda: redis(engine, "get", "greeting") == "hello", 15)
    engine.docker("rm", "-f", "db")
    engine.docker("volume", "rm", "redisdata")


def test_nginx_serves_a_page(engine: Engine, page: Path) -> None:
    nginx_image(engine)
    page.chmod(0o755)
    for parent in [*page.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    engine.docker("run", "-d", "--name", "web", "-p", "28080:80", "-v", f"{page}:/var/www/html:ro", "nginx-lab")
    fetched = eventually(
        lambda: engine.inside("curl", "-sf", "http://127.0.0.1:28080/", check=False).stdout, 10, "the page"
    )
    assert "it works" in fetched
    assert "nginx" in engine.docker("top", "web").stdout
