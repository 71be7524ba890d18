"""A container may be named by a link, which is two segments of a path."""

from __future__ import annotations

import pytest

from services.api.app import own_table


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/containers/web/json", "web"),
        ("GET", "/containers/web/db/json", "web/db"),
        ("POST", "/containers/web/db/stop", "web/db"),
        ("DELETE", "/containers/web/db", "web/db"),
        ("POST", "/containers/web/json/stop", "web/json"),
    ],
)
def test_the_name_of_a_link(method: str, path: str, name: str) -> None:
    found = own_table().find(method, path)
    assert found is not None
    route, parameters = found
    assert (parameters, route.path.replace("{ref}", name)) == ({"ref": name}, path)


@pytest.mark.parametrize(
    "path", ["/containers/a/b/c/json", "/containers//b/json", "/containers/a//json", "/images/a/b/c"]
)
def test_no_other_path_is_longer(path: str) -> None:
    assert own_table().find("GET", path) is None
