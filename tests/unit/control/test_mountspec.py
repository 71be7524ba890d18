"""From -v, --mount and VOLUME to what a node mounts."""

from __future__ import annotations

from typing import Any

import pytest

from services.executor.control.creation.mountspec import (
    PlannedMount,
    mount_point,
    parse_bind,
    parse_mount,
    plan_mounts,
    settle_propagation,
)
from shared.contracts.docker import ContainerConfig, HostConfig, Mount
from shared.contracts.volumes import Volume, WantedVolume
from shared.errors import InvalidArgument

BIND, VOLUME, TMPFS = (f'invalid mount config for type "{kind}": ' for kind in ("bind", "volume", "tmpfs"))


def test_a_bind_makes_its_source() -> None:
    planned = parse_bind("/src/../data:/dst/:ro,rshared")
    mount = planned.mount
    assert (mount.type, mount.source, mount.target) == ("bind", "/data", "/dst")
    assert (mount.read_only, mount.propagation, mount.create_source) == (True, "rshared", True)
    assert planned.volume is None


def test_a_volume_copies_the_images_data_unless_told_not_to() -> None:
    planned = parse_bind("data:/dst")
    assert (planned.mount.type, planned.mount.copy_up, planned.mode) == ("volume", True, "z")
    assert planned.volume == WantedVolume(name="data")
    assert not parse_bind("data:/dst:nocopy").mount.copy_up
    assert parse_bind("/dst").volume == WantedVolume()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("a:b", VOLUME + "invalid mount path: 'b' mount path must be absolute"),
        ("/a:/", BIND + "invalid specification: destination can't be '/'"),
        ("/a:/b:nocopy", BIND + "field VolumeOptions must not be specified"),
        ("/a:/b:c:d", ""),
        ("/a::ro", BIND + "field Target must not be empty"),
    ],
)  # fmt: skip
def test_bad_binds(spec: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_bind(spec)
    assert caught.value.message == f"invalid volume specification: '{spec}'" + (f": {text}" if text else "")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("/a:/b:zz", "invalid mode: zz"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("a:/b", "create a: volume name is too short, names should be at least two alphanumeric characters"),
    ],
)
def test_bad_modes_and_names(spec: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_bind(spec)
    assert caught.value.message == text


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        ({"Type": "bind", "Target": "/x"}, BIND + "field Source must not be empty"),
        (
            {"Type": "bind", "Source": "rel", "Target": "/x"},
            BIND + "invalid mount path: 'rel' mount path must be absolute",
        ),
        ({"Type": "bind", "Source": "/tmp"}, BIND + "field Target must not be empty"),
        (
            {"Type": "bind", "Source": "/tmp", "Target": "x"},
            BIND + "invalid mount path: 'x' mount path must be absolute",
        ),
        ({"Type": "foo", "Target": "/x"}, 'invalid mount config for type "foo": mount type unknown'),
        ({"Type": "tmpfs", "Source": "/tmp", "Target": "/x"}, TMPFS + "field Source must not be specified"),
        (
            {"Type": "volume", "Source": "ab", "Target": "/x", "BindOptions": {}},
            VOLUME + "field BindOptions must not be specified",
        ),
    ],
)
def test_bad_mounts(mount: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mount(Mount.model_validate(mount))
    assert caught.value.message == text


def test_a_mounted_bind_must_exist() -> None:
    assert not parse_mount(Mount(type="bind", source="/a", target="/b")).mount.create_source


def test_tmpfs_options() -> None:
    mount = Mount.model_validate(
        {"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o755, "Options": [["noexec"]]}}
    )
    assert parse_mount(mount).mount.options == ["size=1024", "mode=755", "noexec"]


def plan(config: dict[str, Any], host: dict[str, Any], inherited: list[PlannedMount] | None = None) -> dict[str, Any]:
    planned = plan_mounts(ContainerConfig.model_validate(config), HostConfig.model_validate(host), inherited or [])
    return {one.mount.target: one for one in planned}


def test_an_image_volume_gives_way_to_whatever_is_mounted_there() -> None:
    found = plan({"Volumes": {"/a": {}, "/b": {}, "/c": {}}}, {"Binds": ["/host:/a"], "Tmpfs": {"/c/": ""}})
    assert found["/a"].mount.type == "bind"
    assert found["/b"].mount.type == "volume"
    assert "/c" not in found


def test_own_mounts_win_over_inherited_ones() -> None:
    inherited = [parse_bind("/theirs:/x"), parse_bind("/theirs:/y")]
    found = plan({}, {"Binds": ["/own:/x"]}, inherited)
    assert (found["/x"].mount.source, found["/y"].mount.source) == ("/own", "/theirs")


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["/a:/x", "/b:/x/"]},
        {"Binds": ["/a:/x"], "Mounts": [{"Type": "tmpfs", "Target": "/x"}]},
        {"Binds": ["/a:/x"], "Tmpfs": {"/x": ""}},
    ],
)
def test_two_mounts_for_one_target(host: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        plan({}, host)


def test_mount_points_as_inspect_shows_them() -> None:
    planned = parse_bind("/tmp:/t:ro")
    settle_propagation([planned], "/var/lib/davit")
    bind = mount_point(planned, None)
    assert (bind.type, bind.source, bind.mode, bind.rw, bind.propagation) == ("bind", "/tmp", "ro", False, "rprivate")
    volume = mount_point(parse_bind("data:/d"), Volume(name="data", mountpoint="/v/data/_data"))
    assert (volume.name, volume.source, volume.driver, volume.mode) == ("data", "/v/data/_data", "local", "z")


@pytest.mark.parametrize("source", ["/", "/var", "/var/lib/davit", "/var/lib/davit/volumes/x"])
def test_a_bind_that_shows_the_data_root_holds_on_to_none_of_its_mounts(source: str) -> None:
    planned = parse_bind(f"{source}:/r")
    settle_propagation([planned], "/var/lib/davit")
    assert planned.mount.propagation == "rslave"
    for word in ("private", "rprivate", "shared", "slave"):
        with pytest.raises(InvalidArgument, match='must use either propagation mode "rslave" or "rshared"'):
            settle_propagation([parse_bind(f"{source}:/r:{word}")], "/var/lib/davit")


def test_a_bind_beside_the_data_root_is_private() -> None:
    planned = parse_bind("/var/lib/davit-other:/r")
    settle_propagation([planned], "/var/lib/davit")
    assert planned.mount.propagation == "rprivate"


@pytest.mark.parametrize("path", ["../x", "sub/../../x", "/abs", ".."])
@pytest.mark.parametrize("kind", ["volume", "image"])
def test_a_subpath_leads_nowhere_else(kind: str, path: str) -> None:
    options = {"VolumeOptions" if kind == "volume" else "ImageOptions": {"Subpath": path}}
    mount = Mount.model_validate({"Type": kind, "Source": "name", "Target": "/t", **options})
    with pytest.raises(InvalidArgument, match="subpath must be a relative path within the"):
        parse_mount(mount)


def test_a_relative_image_volume_counts_from_the_root() -> None:
    config = ContainerConfig.model_validate({"Volumes": {"data": {}, "/a/../b/": {}, "c/../d": {}}})
    assert [one.mount.target for one in plan_mounts(config, HostConfig(), [])] == ["/data", "/b", "/d"]
