"""What a create means to older versions."""

from __future__ import annotations

import orjson
import pytest

from services.api import body
from services.api.requests.ageing import to_version
from services.api.requests.containers import ContainerBody
from shared.errors import InvalidArgument


def said(data: bytes, version):
    decoded = body.decode(data, ContainerBody, version)
    to_version(decoded, version)
    return decoded


def mount(kind: str, **options) -> bytes:
    entry = {"Type": kind, "Target": "/x", **options}
    return orjson.dumps({"Image": "x", "HostConfig": {"Mounts": [entry]}})


def test_nothing_changes_for_the_newest():
    data = b'{"Image":"x","HostConfig":{"Annotations":{"a":"b"},"ConsoleSize":[1,2]},"Healthcheck":{"StartInterval":5}}'
    assert said(data, (1, 50)) == body.decode(data, ContainerBody, (1, 50))


@pytest.mark.parametrize(("version", "ipc"), [((1, 39), "shareable"), ((1, 40), "")])
def test_ipc(version, ipc):
    assert said(b'{"Image":"x","HostConfig":{}}', version).host_config.ipc_mode == ipc
    assert said(b'{"Image":"x","HostConfig":{"IpcMode":"host"}}', version).host_config.ipc_mode == "host"


@pytest.mark.parametrize(("version", "kept"), [((1, 41), False), ((1, 42), True)])
def test_options_of_other_types_of_mounts(version, kept):
    (found,) = said(
        mount("bind", VolumeOptions={"NoCopy": True}, BindOptions={"CreateMountpoint": True}), version
    ).host_config.mounts
    assert (found.volume_options is not None) is kept
    assert found.bind_options.create_mountpoint is kept
    assert said(b'{"Image":"x","HostConfig":{"ConsoleSize":[1,2]}}', version).host_config.console_size == (
        [1, 2] if kept else []
    )


@pytest.mark.parametrize(("version", "kept"), [((1, 42), {}), ((1, 43), {"a": "b"})])
def test_annotations(version, kept):
    assert said(b'{"Image":"x","HostConfig":{"Annotations":{"a":"b"}}}', version).host_config.annotations == kept


@pytest.mark.parametrize(("version", "interval", "flat"), [((1, 43), 0, True), ((1, 44), 5, False)])
def test_health_checks_and_read_only_mounts(version, interval, flat):
    assert said(b'{"Image":"x","Healthcheck":{"StartInterval":5}}', version).healthcheck.start_interval == interval
    (found,) = said(mount("bind", ReadOnly=True, BindOptions={}), version).host_config.mounts
    assert found.bind_options.read_only_non_recursive is flat


@pytest.mark.parametrize(
    ("version", "data", "text"),
    [
        (
            (1, 43),
            mount("bind", BindOptions={"ReadOnlyForceRecursive": True}),
            "ReadOnlyForceRecursive needs API v1.44",
        ),
        ((1, 44), mount("volume", VolumeOptions={"Subpath": "a"}), "VolumeOptions.Subpath needs API v1.45"),
        ((1, 47), mount("image", ImageOptions={"Subpath": "a"}), "ImageOptions.Subpath needs API v1.48"),
        ((1, 43), b'{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"a":{},"b":null}}}', "network endpoints: a, b"),
    ],
)
def test_what_needs_a_newer_version_is_refused(version, data, text):
    with pytest.raises(InvalidArgument, match=text):
        said(data, version)
    assert said(data, (1, 48))
