"""bundle.md."""

from __future__ import annotations

import pytest

from tests.conformance.runtime.conftest import Bundle, Runtime

pytestmark = pytest.mark.root


def test_config_json_must_be_in_the_bundle(oci: Runtime, bundle: Bundle) -> None:
    assert oci.call("create", "-b", str(bundle.directory), oci.new_id()).code != 0


def test_config_json_must_be_json(oci: Runtime, bundle: Bundle) -> None:
    (bundle.directory / "config.json").write_text('{"ociVersion": ')
    assert oci.call("create", "-b", str(bundle.directory), oci.new_id()).code != 0


def test_the_root_is_relative_to_the_bundle(oci: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "marker").write_text("here")
    assert oci.output(bundle, "cat /marker") == "here"


def test_the_working_directory_is_the_default_bundle(oci: Runtime, bundle: Bundle) -> None:
    bundle.write()
    assert oci.call("run", oci.new_id(), cwd=bundle.directory).code == 0
